//! The record of the classic tracepoint, from its `format` file.

use tcpstate_common::config::{TP_BASE, TP_BASE_LAZY, TracepointRecord};

use super::{LayoutError, Place};

/// Compares the text of `events/sock/inet_sock_set_state/format` with what the classic tracepoint's
/// program reads, and gives the offset of `skaddr`: [`TP_BASE`] or [`TP_BASE_LAZY`].
///
/// *Source:* `f_show` in `kernel/trace/trace_events.c` writes a line for each field:
/// `field:TYPE NAME; offset:N; size:N; signed:N;`.
///
/// *Errors:* a field is missing, unreadable, or in another place. Other fields may be present.
pub fn parse(text: &str) -> Result<u32, LayoutError> {
    let base = find_fields(text, "skaddr")
        .next()
        .ok_or(LayoutError::NoField { field: "skaddr" })??
        .offset;
    if base != TP_BASE && base != TP_BASE_LAZY {
        return Err(LayoutError::Base { found: base });
    }
    for (field, offset, size) in TracepointRecord::FIELDS {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "inside a record of 64 bytes"
        )]
        let expected = Place {
            offset: base + offset as u32,
            size: size as u32,
        };
        let mut there = false;
        for found in find_fields(text, field) {
            let found = found?;
            if found != expected {
                return Err(LayoutError::Field {
                    field,
                    found,
                    expected,
                });
            }
            there = true;
        }
        if !there {
            return Err(LayoutError::NoField { field });
        }
    }
    Ok(base)
}

/// The places of all fields of that name. A kernel has exactly one.
fn find_fields(
    text: &str,
    field: &'static str,
) -> impl Iterator<Item = Result<Place, LayoutError>> {
    text.lines().filter_map(move |line| {
        let (declaration, rest) = line.trim_start().strip_prefix("field:")?.split_once(';')?;
        // `const void * skaddr`, `__u8 saddr_v6[16]`: the last word, without its dimension.
        let name = declaration
            .split(['[', ';'])
            .next()?
            .split([' ', '*'])
            .next_back()?;
        if name != field {
            return None;
        }
        // Without its semicolon a number may be cut off.
        let number = |key: &str| {
            rest.split_inclusive(';').find_map(|part| {
                let part = part.strip_suffix(';')?.trim();
                part.strip_prefix(key)?
                    .strip_prefix(':')?
                    .parse::<u32>()
                    .ok()
            })
        };
        Some(match (number("offset"), number("size")) {
            (Some(offset), Some(size)) => Ok(Place { offset, size }),
            _ => Err(LayoutError::FieldUnreadable {
                field,
                line: line.trim().chars().take(120).collect(),
            }),
        })
    })
}
