# DeblurGAN-v2 as in deblurganv2_gopro, on the repository's clips.
_base_ = ['./deblurganv2_gopro.py']

data_root = '{{ fileDirname }}/../../tests/data/gopro'
test_dataloader = dict(dataset=dict(data_root=data_root))
