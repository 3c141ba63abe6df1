# GoPro with larger crops: MMagic's restorers and our recipe.
_base_ = ['./gopro.py']

crop_size = 256
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(gt_patch_size=crop_size)  # ClipRandomCrop
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
