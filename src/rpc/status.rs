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
}
