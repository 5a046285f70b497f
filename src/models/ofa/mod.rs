//! OFA: visual entailment and visual grounding (Wang et al., 2022).
