//! Queues in front of the models, the scheduler, admission, and the executor thread that owns the device.
