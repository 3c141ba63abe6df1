"""Check the machine and its packages before a long run.

``machine DEVICE`` exits with code 1 if there is no GPU, or too little free memory on it.
``imports`` lists all missing packages, then imports the package part by part.
"""

import importlib
import importlib.util
import os
import resource
import shutil
import sys
import time

LEAST_MEMORY = 6  # GiB that must be free on the GPU
CUDNN = 91500  # since this version, 3D convolutions in bfloat16 have dedicated kernels
PACKAGES = """
    mmengine mmcv mmagic diffusers transformers tokenizers huggingface_hub addict yapf termcolor
    platformdirs albumentations albucore simsimd stringzilla pydantic pydantic_core
    annotated_types typing_inspection typing_extensions lpips resize_right pkg_resources cv2
    torchvision matplotlib rich tqdm filelock skimage einops yaml regex requests
""".split()  # noqa: SIM905
PARTS = (
    'mmengine',
    'mmcv',
    'dblrgan_mm.nn',
    'mmagic.registry',
    'dblrgan_mm.models',
    'mmagic.models',
    'dblrgan_mm.datasets',
    'dblrgan_mm.evaluation',
    'dblrgan_mm.engine',
    'dblrgan_mm.inference.deblurrer',
)


def machine(device: str) -> None:
    if importlib.util.find_spec('torch') is None:
        sys.exit(f'{sys.executable} has no torch. Choose a Python that has it: make gpu PYTHON=...')
    import torch

    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30
    print(
        f'Python {sys.version.split()[0]}, torch {torch.__version__}, '
        f'CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}'
    )
    print(
        f'{os.cpu_count()} cores, {memory:.0f} GiB of memory, '
        f'{free("/dev/shm"):.1f} GiB free in /dev/shm, '  # noqa: S108
        f'{free("."):.0f} GiB free on the disk, '
        f'{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files, '
        f'gcc {"found" if shutil.which("gcc") else "missing"}'
    )
    if device == 'cpu':
        print('dry run on the CPU')
        return
    if not torch.cuda.is_available():
        sys.exit(
            'no GPU: torch sees none. Use a machine with a GPU and its driver, or try the whole '
            'run on the CPU with `make gpu-dry`'
        )
    available, total = (count / 2**30 for count in torch.cuda.mem_get_info())
    capability = torch.cuda.get_device_capability()
    if (torch.backends.cudnn.version() or 0) < CUDNN:
        print('warning: cuDNN is old: 3D convolutions in bfloat16 may be slow')
    if capability < (8, 0):
        print(f'warning: compute capability {capability} has no bfloat16; using float16')
    if available < LEAST_MEMORY:
        sys.exit(
            f'too little memory: {available:.1f} of {total:.1f} GiB are free on the GPU, '
            f'{LEAST_MEMORY} are needed. Stop other processes on it (see nvidia-smi) and run again'
        )
    bf16, copied = ceilings()
    print(
        f'{torch.cuda.get_device_name()}, capability {capability[0]}.{capability[1]}, '
        f'{available:.0f} of {total:.0f} GiB free, bfloat16 product {bf16 / 1e12:.0f} TFLOP/s, '
        f'copy {copied / 1e12:.2f} TB/s'
    )


def free(folder: str) -> float:
    """Return the free space in GiB on the disk of a folder; 0 if the folder does not exist."""
    return shutil.disk_usage(folder).free / 2**30 if os.path.isdir(folder) else 0.0


def ceilings() -> tuple[float, float]:
    """Return the operations/s and the bytes/s that the GPU reaches."""
    import torch

    from dblrgan_mm import measuring

    device = torch.device('cuda')
    return (
        measuring.matrix_product_ceiling(device, torch.bfloat16),
        measuring.copy_ceiling(device),
    )


def imports() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f'missing packages: {", ".join(missing)}')
    faults = []
    for name in PARTS:
        begin = time.time()
        try:
            importlib.import_module(name)
        except Exception as error:  # continue with the other parts
            faults.append(f'{name}: {type(error).__name__}: {error}')
        print(f'{name}: {time.time() - begin:.1f} s' if not faults else faults[-1], flush=True)
    if faults:
        sys.exit(f'{len(faults)} of {len(PARTS)} parts cannot be imported; first {faults[0]}')
    print(f'all {len(PARTS)} parts can be imported, {len(missing)} packages are missing')


if __name__ == '__main__':
    machine(*sys.argv[2:]) if sys.argv[1] == 'machine' else imports()
