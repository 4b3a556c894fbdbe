//! `docs/fields.md`, made from the catalogue.

use std::fmt::Write as _;

use tcpstate_core::{
    catalogue::{
        CONNECTION, Column, Formats, Kind, PACKET, RATES, SOCKET, TRANSITION, group_table,
        group_transition_table, histogram_table, histogram_transition_table,
        histogram_transitions_table, plural,
    },
    model::By,
};
use tcpstate_text::{format::text::Cell, life, ls, trace};

const HEAD: &str = "\
<!-- Made from tcpstate-user/core/src/catalogue: TCPSTATE_BLESS=1 cargo test -p tcpstate --test docs -->

# Fields

This page lists the fields of each kind of record in JSON and CSV, and the columns of text.

- **JSON** (`--json`) has one object a line; `type` says which kind it is. The name `owner.pid` stands for `pid` \
in the object `owner`. The last line, `summary`, has the accounting: how many transitions were seen, filtered \
and lost; its `complete` is `false` where something is missing, as exit status 3 says.
- **CSV** (`--csv`) has one row a record. `_` replaces the dot: `owner_pid`. Numbers are the same as in JSON.
- **Text** has columns, listed here in their order. A terminal shows those that have room, fitted to its width when \
the run begins: the most telling first, and longer cells cut. A pipe gets the usual ones, whole. `--wide` shows all, \
`--columns pid,remote,cause` these, both whole; it takes the titles here and the names of fields.
- **Unknown** is `null` in JSON, empty in CSV and `-` in text; it is never 0. An object whose fields are all \
unknown because it does not exist is `null` as a whole, such as `owner`.
- A *state* is the kernel's name for it, such as `TIME_WAIT`; a state that has no name is its number.
- A *cause* is `fin`, `reset_by_peer`, `reset_locally`, `refused`, `timed_out`, `unreachable`, `abandoned`, `no_port`, \
or the name of another error of the socket, such as `EPIPE`: see [causes](causes.md).
- Names that others chose, of processes and cgroups, are escaped: in CSV and text a character that is not shown \
itself, such as a control character, a blank that is no space, or a mark without its letter, is written as \
`\\u{1b}`, a byte that is no UTF-8 as `\\xff`, and a backslash twice. JSON has its own escapes for them.
- In text a name is in quotes if it could be taken for something else: `\"-\"` and `\"other\"` are names, `-` is \
unknown. So is one that begins with `\"` or `+`, begins or ends with a space, or is empty. In CSV a cell that would begin like a \
formula begins with `'`, so that a process called `-` is `'-`.
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let common: Vec<_> = TRANSITION.sections[0].iter().collect();
    let names: Vec<&str> = common.iter().map(|column| column.name).collect();
    heading(
        &mut page,
        "The fields of every socket",
        "Transitions, connections and sockets begin with these.",
    );
    fields(&mut page, common);
    let more = "The fields of every socket, then:";

    heading(&mut page, "`trace`: transitions", TRANSITION.doc);
    paragraph(&mut page, more);
    fields(
        &mut page,
        TRANSITION
            .columns()
            .filter(|one| !names.contains(&one.name)),
    );
    text(&mut page, trace::LAYOUT.cells.iter().map(Cell::describe));

    heading(
        &mut page,
        "`trace --packets`: packets of a capture",
        PACKET.doc,
    );
    fields(&mut page, PACKET.columns());

    heading(&mut page, "`life`: connections", CONNECTION.doc);
    paragraph(&mut page, more);
    fields(
        &mut page,
        CONNECTION
            .columns()
            .filter(|one| !names.contains(&one.name)),
    );
    text(&mut page, life::LAYOUT.cells.iter().map(Cell::describe));

    heading(&mut page, "`ls`: sockets", SOCKET.doc);
    paragraph(&mut page, more);
    fields(
        &mut page,
        SOCKET.columns().filter(|one| !names.contains(&one.name)),
    );
    text(&mut page, ls::LAYOUT.cells.iter().map(Cell::describe));

    let histogram = histogram_table(By::Port);
    heading(&mut page, "`hist`: histograms", histogram.doc);
    fields(&mut page, histogram.columns());
    paragraph(
        &mut page,
        "With another `--by`, the fields of the group stand for `service_port` and `role`: those that `rates` has \
         in its list of groups, below.",
    );
    paragraph(&mut page, "`hist --of transitions` in JSON:");
    fields(&mut page, histogram_transitions_table(By::Port).columns());
    paragraph(
        &mut page,
        "`hist --of transitions` in CSV, a row for each transition:",
    );
    fields(&mut page, histogram_transition_table(By::Port).columns());

    heading(&mut page, "`rates`: intervals", RATES.doc);
    paragraph(&mut page, "In JSON:");
    fields(&mut page, RATES.columns());
    let lists = By::ALL.map(|by| format!("`{}`", plural(by)));
    paragraph(
        &mut page,
        &format!(
            "At the end of a line of JSON comes the list of groups, the busiest first: {}, depending on `--by`. \
             An element of `ports` has these fields:",
            lists.join(", ")
        ),
    );
    fields(&mut page, group_table(By::Port).columns());
    for by in By::ALL.into_iter().filter(|&by| by != By::Port) {
        paragraph(
            &mut page,
            &format!(
                "An element of `{}` has these instead of `service_port`, `role` and `other`:",
                plural(by)
            ),
        );
        fields(&mut page, group_table(by).sections[0]);
    }
    paragraph(
        &mut page,
        "CSV has a row for each transition of each group that happened in the interval, with the fields of the \
         group as above:",
    );
    fields(&mut page, group_transition_table(By::Port).columns());
    page
}

fn heading(page: &mut String, title: &str, text: &str) {
    write!(page, "\n## {title}\n\n{text}\n").unwrap();
}

fn paragraph(page: &mut String, text: &str) {
    write!(page, "\n{text}\n").unwrap();
}

fn fields<R: 'static>(page: &mut String, columns: impl IntoIterator<Item = &'static Column<R>>) {
    page.push_str("\n| field | type | meaning | unknown when |\n|---|---|---|---|\n");
    for column in columns {
        let only = match column.formats {
            Formats::Both => "",
            Formats::Json => " (JSON only)",
            Formats::Csv => " (CSV only)",
        };
        let (name, doc, unknown) = (column.name, column.doc, column.unknown);
        let kind = code(column.kind);
        writeln!(page, "| `{name}`{only} | {kind} | {doc} | {unknown} |").unwrap();
    }
}

/// Its words are code.
fn code(kind: Kind) -> String {
    match kind {
        Kind::Word(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            format!("{}: {}", kind.type_name(), words.join(", "))
        }
        kind => kind.to_string(),
    }
}

fn text(page: &mut String, cells: impl Iterator<Item = (&'static str, String)>) {
    page.push_str("\nColumns of text:\n\n| column | content |\n|---|---|\n");
    for (title, meaning) in cells {
        writeln!(page, "| {title} | {meaning} |").unwrap();
    }
}
