# DBLRNet trained against the discriminator of frame sequences.
_base_ = ['./dblrnet.py']

model = dict(
    type='DBLRGAN',
    discriminator=dict(type='FrameSequenceDiscriminator', num_frames=5),
    gan_loss=dict(type='AdversarialLoss', form='saturating', loss_weight=2e-4),
)

# the two players step in turn, so each is wrapped for itself
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
