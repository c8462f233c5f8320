//! Status: an [`Error`] as a gRPC code and message, and back. The chain of causes is joined here, once.
use crate::error::{Error, Kind};

/// Kinds and their codes, as in google.rpc.Code.
const CODES: &[(Kind, i32)] = &[
    (Kind::Cancelled, 1),
    (Kind::Unknown, 2),
    (Kind::InvalidArgument, 3),
    (Kind::DeadlineExceeded, 4),
    (Kind::NotFound, 5),
    (Kind::AlreadyExists, 6),
    (Kind::PermissionDenied, 7),
    (Kind::ResourceExhausted, 8),
    (Kind::FailedPrecondition, 9),
    (Kind::Aborted, 10),
    (Kind::OutOfRange, 11),
    (Kind::Unimplemented, 12),
    (Kind::Internal, 13),
    (Kind::Unavailable, 14),
    (Kind::DataLoss, 15),
    (Kind::Unauthenticated, 16),
];

/// A status travels in HTTP trailers, of which gRPC takes 8 KiB in all, and what is not plain ASCII takes three bytes a byte there.
const LONGEST_MESSAGE: usize = 6000;

/// An error's text in the length that a client takes: of a longer one, the beginning and the end.
pub fn message(text: &str) -> String {
    let cost = |c: char| if matches!(c, ' '..='~') && c != '%' { 1 } else { 3 * c.len_utf8() };
    if text.chars().map(cost).sum::<usize>() <= LONGEST_MESSAGE {
        return text.to_string();
    }
    let some = |chars: &mut dyn Iterator<Item = char>| -> Vec<char> {
        let mut room = LONGEST_MESSAGE / 4;
        let fits = |c: &char| {
            room = room.saturating_sub(cost(*c));
            room > 0
        };
        chars.take_while(fits).collect()
    };
    let (head, tail) = (some(&mut text.chars()), some(&mut text.chars().rev()));
    let (head, tail): (String, String) = (head.into_iter().collect(), tail.into_iter().rev().collect());
    format!("{head} ... ({} bytes) ... {tail}", text.len())
}

/// The gRPC code of a kind.
pub fn code(kind: Kind) -> i32 {
    CODES.iter().find(|(k, _)| *k == kind).map_or(2, |(_, c)| *c)
}

/// An error that came over the wire; an unheard-of code is `Unknown`.
pub fn error(code: i32, message: impl Into<String>) -> Error {
    let kind = CODES.iter().find(|(_, c)| *c == code).map_or(Kind::Unknown, |(k, _)| *k);
    Error::new(kind, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_as_its_kind() {
        for (kind, number) in CODES {
            assert_eq!(code(*kind), *number);
            assert_eq!(error(*number, "x").kind(), *kind);
        }
        assert_eq!(error(99, "x").kind(), Kind::Unknown);
    }

    #[test]
    fn long_messages_keep_their_ends() {
        assert_eq!(message("as it is"), "as it is");
        let long = message(&format!("first{}last", "\u{20ac}".repeat(10_000)));
        assert!(long.starts_with("first") && long.ends_with("last") && long.contains("(30009 bytes)") && long.len() < 2000, "{long}");
    }
}
