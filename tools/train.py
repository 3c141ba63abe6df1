"""Train a model from a config: ``python tools/train.py configs/dblrgan_gopro.py``."""

from dblrgan_mm import launch


def main() -> None:
    parser = launch.argument_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from a checkpoint, or from the newest one in the work dir',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rates by the batch size over the config's auto_scale_lr",
    )
    args = parser.parse_args()
    cfg = launch.load_config(args)

    from mmengine.runner import Runner

    if args.amp:
        wrappers = cfg.optim_wrapper
        for wrapper in [wrappers] if 'optimizer' in wrappers else wrappers.values():
            if isinstance(wrapper, dict):
                wrapper.type = 'AmpOptimWrapper'
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise launch.LaunchError(
                '--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        if args.resume != 'auto':
            cfg.load_from = args.resume
    if cfg.get('load_from'):
        launch.check_checkpoint(cfg.load_from)

    runner = Runner.from_cfg(cfg)
    runner.train()
    runner.logger.info(f'Checkpoints, curves.png and logs: {cfg.work_dir}')


if __name__ == '__main__':
    launch.run(main)
