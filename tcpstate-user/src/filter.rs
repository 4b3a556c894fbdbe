//! Which events are wanted.
