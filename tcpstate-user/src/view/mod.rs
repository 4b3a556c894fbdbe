//! view
pub mod doctor;
