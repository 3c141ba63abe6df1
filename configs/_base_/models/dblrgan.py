# DBLRNet trained against the discriminator for frame sequences.
_base_ = ['./dblrnet.py']

model = dict(
    type='DBLRGAN',
    discriminator=dict(type='FrameSequenceDiscriminator', num_frames=5),
    gan_loss=dict(type='AdversarialLoss', form='saturating', loss_weight=2e-4),
)

# the two networks are updated alternately, so each has its own wrapper
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
