//! The description of the API, `OpenAPI` 3.1: a committed file, which a test makes from the table of paths and from the
//! catalogue, and checks answers against.

#[cfg(test)]
pub(super) mod tests;

/// The document. `TCPSTATE_BLESS=1 cargo test -p tcpstate-serve openapi` writes it anew.
pub(super) const DOCUMENT: &str = include_str!("../../openapi.json");
