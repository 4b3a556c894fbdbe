//! The grammar.
//!
//! ```text
//! expression  = conjunction { ("or" | "|" | "||") conjunction }
//! conjunction = negation { ["and" | "&" | "&&"] negation }
//! negation    = ("not" | "!") negation | "(" expression ")" | condition
//! condition   = WORD [operator] VALUE
//! operator    = "=" | "==" | "eq" | "!=" | "ne" | "neq" | "<" | "lt" | ">" | "gt" | "<=" | "le" | "leq" | ">=" | "ge" | "geq"
//! ```
//!
//! A value is one word, or anything in quotes.

use std::{net::IpAddr, ops::Range, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use winnow::{
    LocatingSlice, ModalResult, Parser, Stateful,
    ascii::multispace0,
    combinator::{alt, cut_err, delimited, not, opt, preceded, repeat, terminated},
    error::{ErrMode, ParserError},
    stream::Location as _,
    token::take_while,
};

use super::{
    ExpressionError, Lookup, Node,
    term::{Glob, Op, Term},
    words::{Ends, Kind, Moment, REFUSED, WORDS, Word},
};
use crate::{
    duration::nanoseconds,
    filter::{CauseListError, Family, PortListError, PortSet, StateListError, StateSet},
    nearest::nearest,
    quantity::{QuantityError, parse_bytes, parse_duration},
    service::Role,
};

/// The longest expression, bytes.
const MAX_BYTES: usize = 16 << 10;
/// Conditions within each other, by parentheses and `not`.
const MAX_DEPTH: usize = 64;

type Input<'i> = Stateful<LocatingSlice<&'i str>, State<'i>>;
type Parsed<T> = ModalResult<T, Fault>;

#[derive(Clone, Copy)]
struct State<'i> {
    lookup: &'i dyn Lookup,
    /// `None`: every field is known.
    moment: Option<Moment>,
    depth: usize,
}

impl std::fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "depth {}", self.depth)
    }
}

/// A mistake and its place.
#[derive(Debug)]
struct Fault {
    at: Range<usize>,
    message: String,
}

impl Fault {
    fn at(at: Range<usize>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { at, message }
    }
}

impl ParserError<Input<'_>> for Fault {
    type Inner = Self;

    fn from_input(input: &Input<'_>) -> Self {
        let at = input.current_token_start();
        Self {
            at: at..at,
            message: String::new(),
        }
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

/// The nodes of an expression; `None` if it is empty.
pub(super) fn parse(
    text: &str,
    lookup: &dyn Lookup,
    moment: Option<Moment>,
) -> Result<Option<Node>, ExpressionError> {
    if text.len() > MAX_BYTES {
        let message = format!("the filter is longer than {} KiB", MAX_BYTES >> 10);
        return Err(ExpressionError::new("", 0..0, message));
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut input = Input {
        input: LocatingSlice::new(text),
        state: State {
            lookup,
            moment,
            depth: 0,
        },
    };
    let parsed = terminated(expression, (multispace0, end)).parse_next(&mut input);
    parsed.map(Some).map_err(|error| {
        let fault = error.into_inner().unwrap_or_else(|_| Fault::at(0..0, ""));
        ExpressionError::new(text, fault.at, fault.message)
    })
}

/// The end of the text, or why it is not there.
fn end(input: &mut Input<'_>) -> Parsed<()> {
    if input.is_empty() {
        return Ok(());
    }
    let (at, found) = next(input);
    Err(ErrMode::Cut(Fault::at(
        at,
        match found {
            ")" => "this `)` has no `(` before it".to_owned(),
            _ => expected_condition(found),
        },
    )))
}

fn expression(input: &mut Input<'_>) -> Parsed<Node> {
    let or = alt((symbol("||"), symbol("|"), keyword("or")));
    let rest = repeat(0.., preceded(or, cut_err(conjunction)));
    (conjunction, rest)
        .map(|(first, rest)| joined(first, rest, Node::Or))
        .parse_next(input)
}

fn conjunction(input: &mut Input<'_>) -> Parsed<Node> {
    let and = alt((symbol("&&"), symbol("&"), keyword("and")));
    let rest = repeat(0.., alt((preceded(and, cut_err(negation)), negation)));
    (negation, rest)
        .map(|(first, rest)| joined(first, rest, Node::And))
        .parse_next(input)
}

fn joined(first: Node, mut rest: Vec<Node>, join: impl FnOnce(Vec<Node>) -> Node) -> Node {
    if rest.is_empty() {
        return first;
    }
    rest.insert(0, first);
    join(rest)
}

fn negation(input: &mut Input<'_>) -> Parsed<Node> {
    let (at, _) = next(input);
    if input.state.depth == MAX_DEPTH {
        return Err(ErrMode::Cut(Fault::at(
            at,
            format!("more than {MAX_DEPTH} conditions within each other"),
        )));
    }
    input.state.depth += 1;
    let not = alt((symbol("!"), keyword("not")));
    let inner = cut_err(terminated(expression, close));
    let parsed = alt((
        preceded(not, cut_err(negation)).map(|node| Node::Not(Box::new(node))),
        preceded(symbol("("), inner),
        condition,
    ))
    .parse_next(input);
    input.state.depth -= 1;
    parsed
}

fn close(input: &mut Input<'_>) -> Parsed<()> {
    let (at, _) = next(input);
    let missing = |_: ErrMode<Fault>| ErrMode::Cut(Fault::at(at, "a `)` is missing here"));
    symbol(")").parse_next(input).map_err(missing)
}

/// One of the signs, after blanks. `!` is none in `!=`.
fn symbol<'i>(sign: &'static str) -> impl Parser<Input<'i>, (), ErrMode<Fault>> {
    let longer = if sign == "!" { "=" } else { "" };
    let not_longer = move |input: &mut Input<'i>| match longer {
        "" => Ok(()),
        longer => not(longer).parse_next(input),
    };
    (multispace0, sign, not_longer).void()
}

/// A word of the grammar, after blanks.
fn keyword<'i>(name: &'static str) -> impl Parser<Input<'i>, (), ErrMode<Fault>> {
    preceded(multispace0, bare)
        .verify(move |word: &str| word == name)
        .void()
}

/// A word without quotes.
fn bare<'i>(input: &mut Input<'i>) -> Parsed<&'i str> {
    take_while(1.., |c: char| {
        !c.is_whitespace() && !"()!&|=<>\"'".contains(c)
    })
    .parse_next(input)
}

/// The next word or sign and its place, for a message; empty at the end.
fn next<'i>(input: &Input<'i>) -> (Range<usize>, &'i str) {
    let rest: &str = input.input.as_ref();
    let blanks = rest.len() - rest.trim_start().len();
    let start = input.current_token_start() + blanks;
    let rest = rest.trim_start();
    let is_end = |c: char| c.is_whitespace() || "()".contains(c);
    let length = rest.find(is_end).unwrap_or(rest.len());
    let length = length.max(rest.chars().next().map_or(0, char::len_utf8));
    (
        start..start + length,
        rest.get(..length).unwrap_or_default(),
    )
}

fn expected_condition(found: &str) -> String {
    match found {
        "" => "a condition is missing here, such as `dport = :443`".to_owned(),
        found => format!("expected a condition, such as `dport = :443`, not `{found}`"),
    }
}

/// A condition, by its first word.
fn condition(input: &mut Input<'_>) -> Parsed<Node> {
    let (at, found) = next(input);
    let name = match preceded(multispace0, bare).parse_next(input) {
        Ok(name) if !matches!(name, "and" | "or" | "not") => name,
        _ => return Err(ErrMode::Backtrack(Fault::at(at, expected_condition(found)))),
    };
    let Some(word) = WORDS.iter().find(|word| word.name == name) else {
        return Err(ErrMode::Cut(Fault::at(at, unknown_word(name))));
    };
    if input
        .state
        .moment
        .is_some_and(|moment| !word.is_known(moment))
    {
        return Err(ErrMode::Cut(Fault::at(at, not_known_here(word))));
    }
    cut_err(|input: &mut Input<'_>| term(word, input)).parse_next(input)
}

fn unknown_word(name: &str) -> String {
    if REFUSED.contains(&name) {
        return format!("`{name}` of ss(8) is not supported");
    }
    let names = WORDS.iter().map(|word| word.name);
    let hint = nearest(name, names).map_or_else(
        || {
            format!(
                "the words are {}",
                WORDS
                    .iter()
                    .map(|word| word.name)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        },
        |near| format!("did you mean `{near}`?"),
    );
    format!("`{name}` begins no condition; {hint}")
}

fn not_known_here(word: &Word) -> String {
    let commands = word.known.iter().filter_map(|moment| moment.command());
    let commands: Vec<_> = commands.map(|name| format!("`tcpstate {name}`")).collect();
    let name = word.name;
    format!(
        "this command does not know `{name}`; known to {}",
        commands.join(", ")
    )
}

/// The rest of a condition, after its word.
fn term(word: &'static Word, input: &mut Input<'_>) -> Parsed<Node> {
    let (op_at, _) = next(input);
    let (op, is_negated) = opt(operator)
        .parse_next(input)?
        .unwrap_or((Op::Equal, false));
    let lookup = input.state.lookup;
    let (text, at) = value(word, input)?;
    let wrong = |message: String| ErrMode::Cut(Fault::at(at.clone(), message));
    let port_term = |ends, text: &str| -> Result<Term, String> {
        match port(text, lookup) {
            Ok(port) => Ok(Term::Port(ends, op, port)),
            // The name of a service may have a `-`.
            Err(_) if op != Op::Equal && is_port_list(text) => {
                Err("a list of ports takes only = or !=".to_owned())
            }
            Err(_) if is_port_list(text) => {
                let ports: PortSet = text
                    .parse()
                    .map_err(|error: PortListError| error.to_string())?;
                // One port is written as one.
                Ok(match ports.to_string().parse() {
                    Ok(port) => Term::Port(ends, op, port),
                    Err(_) => Term::Ports(ends, ports),
                })
            }
            Err(error) => Err(error),
        }
    };
    let term = match word.kind {
        Kind::State => {
            let first = state_list(text).map_err(wrong)?;
            return states(word, first, is_negated, input);
        }
        Kind::Host(ends) => host(ends, text, lookup),
        Kind::Port(ends) => port_term(ends, text),
        Kind::Service => port(text, lookup).map(|port| Term::Service(op, port)),
        Kind::OldState => state_list(text).map(Term::OldState),
        Kind::NewState => state_list(text).map(Term::NewState),
        Kind::Cause => text
            .parse()
            .map(Term::Cause)
            .map_err(|error: CauseListError| error.to_string()),
        Kind::PortRange => port_range(text),
        Kind::Family => among(text, "family", &FAMILIES).map(Term::Family),
        Kind::Role => among(text, "role", &ROLES).map(Term::Role),
        Kind::Netns => lookup.netns(text).map(Term::Netns),
        Kind::User => lookup.user(text).map(Term::Uid),
        Kind::Cgroup => lookup.cgroup(text).map(Term::Cgroup),
        Kind::Pid => number(text, u32::MAX).map(|pid| Term::Pid(op, pid)),
        Kind::Comm => globs(text, "nginx,php*").map(Term::Comm),
        Kind::Unit => globs(text, "nginx.service,php*").map(|mut globs| {
            globs.iter_mut().for_each(Glob::complete_unit);
            Term::Unit(globs)
        }),
        Kind::Container => globs(text, "3f2a*,web-1").map(Term::Container),
        Kind::Pod => globs(text, "shop/web-*,shop/db-0").map(Term::Pod),
        Kind::Duration(field) => match parse_duration(text) {
            Err(QuantityError::NoDuration) => Ok(Duration::ZERO),
            parsed => parsed,
        }
        .map(|duration| Term::Number(field, op, nanoseconds(duration)))
        .map_err(|error| error.to_string()),
        Kind::Bytes(field) => parse_bytes(text)
            .map(|bytes| Term::Number(field, op, bytes))
            .map_err(|error| error.to_string()),
        Kind::Count(field) => number(text, u64::MAX).map(|count| Term::Number(field, op, count)),
    };
    let term = term.map_err(wrong)?;
    if op != Op::Equal && !term.has_order() {
        let message = format!("`{}` has no order: it takes `=` or `!=`", word.name);
        return Err(ErrMode::Cut(Fault::at(op_at, message)));
    }
    Ok(negated_if(is_negated, Node::Term(term)))
}

/// Patterns of names.
fn globs(text: &str, example: &str) -> Result<Vec<Glob>, String> {
    if text.split(',').any(str::is_empty) {
        return Err(format!(
            "an empty item; write names with a comma between them, such as {example}"
        ));
    }
    Ok(text.split(',').map(Glob::new).collect())
}

fn negated_if(is_negated: bool, node: Node) -> Node {
    if is_negated {
        Node::Not(Box::new(node))
    } else {
        node
    }
}

/// A value and its place.
fn value<'i>(word: &Word, input: &mut Input<'i>) -> Parsed<(&'i str, Range<usize>)> {
    let quoted = |quote: char| delimited(quote, take_while(0.., move |c| c != quote), quote);
    let (at, _) = next(input);
    let rest: &str = input.input.as_ref();
    let rest = rest.trim_start();
    let quote = rest.chars().next().filter(|quote| "\"'".contains(*quote));
    if quote.is_some_and(|quote| rest.matches(quote).count() == 1) {
        let message = "this quote is not closed".to_owned();
        return Err(ErrMode::Cut(Fault::at(at.start..at.start + 1, message)));
    }
    preceded(
        multispace0,
        alt((bare, quoted('"'), quoted('\''))).with_span(),
    )
    .parse_next(input)
    .map_err(|_: ErrMode<Fault>| {
        let message = format!("a value is missing here: `{} {}`", word.name, word.form);
        ErrMode::Cut(Fault::at(at, message))
    })
}

/// A comparison, and whether it is negated.
fn operator(input: &mut Input<'_>) -> Parsed<(Op, bool)> {
    let sign = |signs: &'static str| preceded(multispace0, signs);
    alt((
        alt((sign("=="), sign("="))).value((Op::Equal, false)),
        sign("!=").value((Op::Equal, true)),
        sign("<=").value((Op::AtMost, false)),
        sign(">=").value((Op::AtLeast, false)),
        sign("<").value((Op::Less, false)),
        sign(">").value((Op::Greater, false)),
        preceded(multispace0, bare).verify_map(|word| match word {
            "eq" => Some((Op::Equal, false)),
            "ne" | "neq" => Some((Op::Equal, true)),
            "le" | "leq" => Some((Op::AtMost, false)),
            "ge" | "geq" => Some((Op::AtLeast, false)),
            "lt" => Some((Op::Less, false)),
            "gt" => Some((Op::Greater, false)),
            _ => None,
        }),
    ))
    .parse_next(input)
}

/// The rest of a row of `state` and `exclude`, which together are one set, as in ss(8).
fn states(word: &Word, first: StateSet, is_negated: bool, input: &mut Input<'_>) -> Parsed<Node> {
    let mut set = if is_excluding(word) {
        StateSet::ALL.without(first)
    } else {
        first
    };
    if is_negated {
        return Ok(Node::Not(Box::new(Node::Term(Term::State(set)))));
    }
    loop {
        let again = preceded(multispace0, bare).verify_map(|name| {
            WORDS
                .iter()
                .find(|word| word.name == name && word.kind == Kind::State)
        });
        let Some(word) = opt(again).parse_next(input)? else {
            return Ok(Node::Term(Term::State(set)));
        };
        let (text, at) = value(word, input)?;
        let more = state_list(text).map_err(|message| ErrMode::Cut(Fault::at(at, message)))?;
        set = if is_excluding(word) {
            set.without(more)
        } else {
            set.with(more)
        };
    }
}

fn state_list(text: &str) -> Result<StateSet, String> {
    text.parse().map_err(|error: StateListError| {
        let plain = |word: &str| word.to_ascii_lowercase().replace('_', "-");
        let words: Vec<_> = StateSet::words().into_iter().map(plain).collect();
        let near = |item| Some((item, nearest(item, words.iter().map(String::as_str))?));
        error.item().and_then(near).map_or_else(
            || error.to_string(),
            |(item, near)| format!("`{item}` is not a TCP state; did you mean `{near}`?"),
        )
    })
}

fn is_excluding(word: &Word) -> bool {
    word.name == "exclude"
}

const FAMILIES: [(&str, Family); 4] = [
    ("ipv4", Family::Ipv4),
    ("ipv6", Family::Ipv6),
    ("inet", Family::Ipv4),
    ("inet6", Family::Ipv6),
];
const ROLES: [(&str, Role); 2] = [("client", Role::Client), ("server", Role::Server)];

fn among<T: Copy>(text: &str, what: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == text);
    found.map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|&(name, _)| name).collect();
        format!("`{text}` is no {what}; give {}", names.join(" or "))
    })
}

/// A number of at most `most`.
fn number<T: TryFrom<u64> + std::fmt::Display + Copy>(text: &str, most: T) -> Result<T, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{text}` is no number"));
    }
    let number = text
        .parse::<u64>()
        .ok()
        .and_then(|number| number.try_into().ok());
    number.ok_or_else(|| format!("`{text}` is too large; the number is at most {most}"))
}

/// `:443`, `443` or `https`.
fn port(text: &str, lookup: &dyn Lookup) -> Result<u16, String> {
    let name = text.strip_prefix(':').unwrap_or(text);
    let found = name.parse().ok().or_else(|| lookup.service(name));
    found.ok_or_else(|| {
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            format!("`{name}` is no port: ports are 0 to 65535")
        } else {
            format!("`{name}` is no port, nor a TCP service in /etc/services")
        }
    })
}

/// Whether this is meant as a list of ports and ranges.
fn is_port_list(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == ',') && text.contains([',', '-'])
}

fn port_range(text: &str) -> Result<Term, String> {
    let bounds = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match bounds {
        Some((first, last)) if first <= last => Ok(Term::PortRange(first, last)),
        _ => Err(format!("`{text}` is no range of ports, such as 8000-8100")),
    }
}

/// `10.0.0.0/8:443`, `[2001:db8::]/32`, `[::1]:80`, `*:80`, `:80`; in ss(8) the prefix may stand in the brackets too.
fn host(ends: Ends, text: &str, lookup: &dyn Lookup) -> Result<Term, String> {
    let (address, rest) = if let Some(inner) = text.strip_prefix('[') {
        let (inner, rest) = inner
            .split_once(']')
            .ok_or_else(|| format!("`{text}` has no `]`"))?;
        let bits = rest
            .strip_prefix('/')
            .map_or(0, |bits| bits.find(':').unwrap_or(bits.len()) + 1);
        let (bits, rest) = rest.split_at(bits);
        (format!("{inner}{bits}"), rest)
    } else if text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() {
        (text.to_owned(), "")
    } else {
        let end = text.rfind(':').unwrap_or(text.len());
        let (address, rest) = text.split_at(end);
        (address.to_owned(), rest)
    };
    let port = match rest {
        "" | ":" | ":*" => None,
        rest if rest.starts_with(':') => Some(port(rest, lookup)?),
        _ => return Err(format!("`{text}` is no address; a port follows a colon")),
    };
    let prefix = match address.as_str() {
        "" | "*" | "any" | "all" | "default" => None,
        address => Some(prefix(address)?),
    };
    Ok(Term::Host { ends, prefix, port })
}

/// An address or a prefix. As in ss(8), an IPv4 prefix may leave out what is 0 at its end: `193.233.7/24`.
fn prefix(text: &str) -> Result<IpNet, String> {
    let wrong = || {
        format!(
            "`{text}` is no address; give one, or a prefix such as 10.0.0.0/8 or [2001:db8::]/32; names are not looked up"
        )
    };
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let is_short = bits.is_some() && !address.contains(':');
    let missing = 3usize.saturating_sub(address.matches('.').count());
    let address = if is_short {
        address.to_owned() + &".0".repeat(missing)
    } else {
        address.to_owned()
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let net = IpNet::new(address, bits.unwrap_or(whole)).map_err(|_| wrong())?;
    Ok(match net {
        // v4-mapped addresses are IPv4 on the wire, and in all that is shown.
        IpNet::V6(net) if net.prefix_len() >= 96 => match net.addr().to_ipv4_mapped() {
            Some(address) => {
                Ipv4Net::new(address, net.prefix_len() - 96).map_or(IpNet::V6(net), IpNet::V4)
            }
            None => IpNet::V6(net),
        },
        net => net,
    }
    .trunc())
}
