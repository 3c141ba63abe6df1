"""Score a checkpoint: ``dblrgan-mm test dblrgan_gopro CHECKPOINT``."""

from pathlib import Path
from typing import TYPE_CHECKING

from dblrgan_mm import launch

if TYPE_CHECKING:
    from dblrgan_mm.viewer import Table


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

    from dblrgan_mm.engine.test_frames import TestFramesHook
    from dblrgan_mm.viewer import write_page

    runner = launch.build_runner(cfg)
    keeper, frames = KeepScores(), TestFramesHook()
    runner.register_hook(keeper)
    runner.register_hook(frames)
    runner.test()
    if is_main_process():
        table = score_table(keeper.scores)
        print_table(table)
        if args.out:
            mmengine.dump(keeper.scores, str(args.out))
        folder = Path(runner.log_dir)
        print(f'Pictures: {folder / "vis_data" / "vis_image"}')
        if frames.clips:
            title = f'Test of {args.checkpoint}'
            write_page(folder / 'index.html', title, frames.clips, [table])
            print(f'Page for a browser: {folder / "index.html"}')


def score_table(scores: dict[str, float]) -> 'Table':
    """Return a table of the scores of the blurry input and the restored frames."""
    from dblrgan_mm.viewer import Table

    rows = []
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
        rows.append([name, *cells])
    return Table('Mean over the test frames', ['', 'blurry', 'restored', 'gain'], rows)


def print_table(table: 'Table') -> None:
    """Print a table, numbers flush right."""
    from rich.console import Console
    from rich.table import Table as Printed

    printed = Printed(title=table.title)
    for head in table.heads:
        printed.add_column(head, justify='left' if not head else 'right')
    for row in table.rows:
        printed.add_row(*row)
    Console().print(printed)
