//! capture
pub mod layout;
