//! Packs: which architecture fills each role, from which files.
