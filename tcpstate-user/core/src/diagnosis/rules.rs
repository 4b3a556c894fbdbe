//! The rules, a file each. Each file has the rule's text, its inputs and its check, and tests of what it finds and of
//! what looks alike.

mod accept_queue_full;
mod close_wait_leak;

use super::Rule;

/// All rules, those that explain the most trouble first.
pub static RULES: &[&Rule] = &[&close_wait_leak::RULE, &accept_queue_full::RULE];
