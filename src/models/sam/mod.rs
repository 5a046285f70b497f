//! SAM: box- and point-prompted segmentation (Kirillov et al., 2023).
