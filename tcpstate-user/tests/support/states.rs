//! `docs/states.md`, made from the table that `tcpstate explain` shows.

use std::fmt::Write as _;

use tcpstate_core::explain::{STATES, StateText};

const HEAD: &str = "\
<!-- Made from tcpstate-user/core/src/explain/states.rs: TCPSTATE_BLESS=1 cargo test -p tcpstate --test docs -->

# TCP states

Each TCP state: the ways in and out of it, and the meaning of many sockets in it; `tcpstate explain STATE` shows the same, \
with the values of the settings and the sockets of the host that it runs on. `tcpstate explain` draws the state diagram.

From every state of a connection a RST, or no answer in time, leads to `CLOSE`. Each claim that this page calls wrong is shown to be wrong by the \
kernel tests `lore::*`.
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for text in &STATES {
        // Writing to a string does not fail.
        let _ = state(text, &mut page);
    }
    page
}

fn state(text: &StateText, page: &mut String) -> std::fmt::Result {
    writeln!(page, "\n## {}\n\n{}\n", text.state, text.is)?;
    writeln!(page, "- *Side:* {}", text.side)?;
    for (label, ways) in [("From", text.from), ("To", text.to)] {
        for way in ways {
            writeln!(page, "- *{label}* `{}`: {}", way.state, way.by)?;
        }
    }
    writeln!(page, "- *Lasts:* {}", text.lasts)?;
    for setting in text.settings {
        writeln!(page, "- `{}`: {}", setting.name(), setting.effect)?;
    }
    writeln!(page, "- *Many:* {}", text.many)?;
    for lore in text.lore {
        writeln!(page, "- *Not so:* \"{}\". {}", lore.said, lore.truth)?;
    }
    writeln!(page, "\n```sh")?;
    for command in text.commands {
        writeln!(page, "{command}")?;
    }
    let sources: Vec<_> = text.sources.to_vec();
    writeln!(page, "```\n\nSources: {}.", sources.join("; "))
}
