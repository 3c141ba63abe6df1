"""Score a checkpoint: ``dblrgan-mm test dblrgan_gopro CHECKPOINT``."""

from pathlib import Path

from dblrgan_mm import launch


def main() -> None:
    parser = launch.argument_parser(__doc__)
    parser.add_argument('checkpoint', help="checkpoint file, or name of the package's weights")
    parser.add_argument('--out', type=Path, help='output file for the scores, .json or .yaml')
    args = parser.parse_args()
    if args.out and args.out.suffix not in ('.json', '.yaml', '.yml'):
        parser.error(f'--out {args.out}: the file name must end in .json or .yaml')
    if args.out and not args.out.resolve().parent.is_dir():
        parser.error(f'--out {args.out}: the folder {args.out.resolve().parent} does not exist')
    cfg = launch.load_config(args)

    import mmengine
    from mmengine.dist import is_main_process
    from mmengine.hooks import Hook

    class KeepScores(Hook):  # MMagic's test loop returns nothing
        def after_test_epoch(self, runner, metrics: dict) -> None:
            self.scores = {name: float(value) for name, value in metrics.items()}

    if args.amp:
        cfg.test_cfg.fp16 = True
    cfg.load_from = launch.find_checkpoint(args.checkpoint)

    runner = launch.build_runner(cfg)
    keeper = KeepScores()
    runner.register_hook(keeper)
    runner.test()
    if is_main_process():
        print_scores(keeper.scores)
        print(f'Pictures: {Path(runner.log_dir) / "vis_data" / "vis_image"}')
        if args.out:
            mmengine.dump(keeper.scores, str(args.out))


def print_scores(scores: dict[str, float]) -> None:
    """Print a table of the scores of the blurry input and the restored frames."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title='mean over the test frames')
    for column in ('', 'blurry', 'restored', 'gain'):
        table.add_column(column, justify='left' if not column else 'right')
    for name, restored in scores.items():
        if name.startswith('input/'):
            continue
        blurry = scores.get(f'input/{name}')
        digits = 2 if 'PSNR' in name else 4
        cells = [f'{restored:.{digits}f}']
        if blurry is not None:
            cells = [f'{blurry:.{digits}f}', *cells, f'{restored - blurry:+.{digits}f}']
        else:
            cells = ['', *cells, '']
        table.add_row(name, *cells)
    Console().print(table)
