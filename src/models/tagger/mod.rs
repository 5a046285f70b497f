//! The tagger: transformer encoder, linear layer, linear-chain CRF.
