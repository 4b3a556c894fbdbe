//! Text for people: tables, and records from the catalogue as their lines.

mod records;
mod table;

pub(crate) use self::table::push_endpoint;
pub use self::{
    records::{Cell, Records},
    table::{Align, Column, OrDash, Table, wants_colour},
};
