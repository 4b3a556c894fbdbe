//! The paths and their parameters, each once: requests are read by this table, and `docs/api.md` is made from it.

/// A path of the API.
#[derive(Debug)]
pub struct Endpoint {
    /// The path.
    pub path: &'static str,
    /// The content, in one sentence.
    pub doc: &'static str,
    /// The parameters of its query. All may be left out.
    pub parameters: &'static [Parameter],
    /// The fields of an answer, in words.
    pub fields: &'static [(&'static str, &'static str)],
}

/// A parameter.
#[derive(Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// The form of its value.
    pub form: Form,
    /// The meaning.
    pub doc: &'static str,
}

/// The form of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text, in the notation that the parameter's meaning names.
    Text,
    /// One of these words, the first if it is left out.
    Word(&'static [&'static str]),
    /// A whole number from 1 on.
    Number {
        /// If it is left out.
        usual: u64,
        /// The greatest.
        most: u64,
    },
}

const TYPE: (&str, &str) = ("type", "the kind of the answer");
const TS: (&str, &str) = ("ts", "wall-clock time of the snapshot, RFC 3339, UTC");
const TS_NS: (&str, &str) = ("ts_ns", "the same time on the monotonic clock, ns");

const FILTER: Parameter = Parameter {
    name: "filter",
    form: Form::Text,
    doc: "an expression in the language of ss(8), as `tcpstate help filter` explains it. Services may have \
          names; users and network namespaces are numbers, cgroups paths",
};

/// All paths.
pub static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/api/v1/snapshot",
        doc: "The last full second and the books so far",
        parameters: &[],
        fields: &[
            TYPE,
            (
                "number",
                "the number of the snapshot, from 1 on without gaps",
            ),
            (
                "is_final",
                "whether it is the last one of the run, so that its books are exact",
            ),
            (
                "rates",
                "the last full second, as a line of `rates --json`: transitions, rates, and the sockets in each \
                 state, over all and by service port (`ports`)",
            ),
            (
                "summary",
                "the books so far, as the last line of every run with `--json`",
            ),
        ],
    },
    Endpoint {
        path: "/api/v1/connections",
        doc: "The connections that are open, those longest in their state first",
        parameters: &[
            FILTER,
            Parameter {
                name: "state",
                form: Form::Text,
                doc: "only connections in these states, such as `ESTABLISHED,CLOSE_WAIT`",
            },
            Parameter {
                name: "port",
                form: Form::Text,
                doc: "only connections with these service ports, such as `443,8000-8100`",
            },
            Parameter {
                name: "order",
                form: Form::Word(&["oldest", "newest"]),
                doc: "by the time in the present state, those longest in it first or last. A time that is not known \
                      counts as short",
            },
            Parameter {
                name: "limit",
                form: Form::Number {
                    usual: 100,
                    most: 1_000,
                },
                doc: "connections in an answer",
            },
            Parameter {
                name: "cursor",
                form: Form::Text,
                doc: "go on behind an answer: its `next`, with the same other parameters",
            },
        ],
        fields: &[
            TYPE,
            TS,
            TS_NS,
            (
                "connections",
                "a list, each as `life --live --json` writes it: the last of `states` is the present state, with \
                 the time in it so far",
            ),
            (
                "matching",
                "connections that match, in this answer, before it and behind it",
            ),
            (
                "undecided",
                "connections left out because what the filter asks for is not known of them",
            ),
            (
                "left_out",
                "open connections that were not looked at: of each state, the 10,000 that have been in it longest are",
            ),
            (
                "next",
                "the cursor of those behind this answer; `null`: there are none",
            ),
        ],
    },
    Endpoint {
        path: "/api/v1/findings",
        doc: "The findings, by the rules of `tcpstate diagnose`",
        parameters: &[],
        fields: &[
            TYPE,
            TS,
            TS_NS,
            (
                "findings",
                "a list, the worst first, each as `diagnose --json` writes it",
            ),
        ],
    },
    Endpoint {
        path: "/api/v1/history",
        doc: "The figures of the past: an hour by second, a day by minute",
        parameters: &[
            Parameter {
                name: "resolution",
                form: Form::Word(&["second", "minute"]),
                doc: "the length of the intervals",
            },
            Parameter {
                name: "last",
                form: Form::Text,
                doc: "only the last part of it, such as `10m`",
            },
            Parameter {
                name: "port",
                form: Form::Text,
                doc: "the service ports whose own figures are in `ports`, such as `443,8000-8100`; without it, none",
            },
        ],
        fields: &[
            TYPE,
            (
                "intervals",
                "a list, the oldest first, each as a line of `rates --json` without `sample_interval_ns`, `dwell`, `half_open` and \
                 `listen`. Where `ts_ns` less `interval_ns` is not the `ts_ns` of the one before, the time between is \
                 missing. Where there is not room for all (64 MiB), the oldest are missing",
            ),
        ],
    },
    Endpoint {
        path: "/api/v1/events",
        doc: "Changes of state from now on, as server-sent events. Eight clients may follow at a time; one more gets 503",
        parameters: &[FILTER],
        fields: &[
            (
                "transition",
                "an event whose data is a line of `trace --json`, with the same filter",
            ),
            (
                "missed",
                "an event whose data says how many changes (`missed`), those that match or not, are lost to this client, \
                 since it read too slowly; what follows is complete again",
            ),
            ("end", "an event at the end of the run; none follows"),
        ],
    },
    Endpoint {
        path: "/api/v1/openapi.json",
        doc: "The description of this API, for programs: OpenAPI 3.1",
        parameters: &[],
        fields: &[
            ("paths", "each path with its parameters"),
            (
                "components.schemas",
                "the schema of each answer (JSON Schema 2020-12): no field is missing in it, and none is there that an \
                 answer has not",
            ),
        ],
    },
];

impl Endpoint {
    /// The endpoint at this path.
    pub fn at(path: &str) -> Option<&'static Self> {
        ENDPOINTS.iter().find(|endpoint| endpoint.path == path)
    }

    /// The parameter of this name.
    pub(super) fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters
            .iter()
            .find(|parameter| parameter.name == name)
    }
}
