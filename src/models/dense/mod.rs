//! A compact text-conditioned dense network that entails and grounds in one pass.
