//! One error type: a kind that maps to a gRPC code, the object it is about, and the chain of causes.
//!
//! Messages name the object and, where there is one, the remedy. The chain is printed once, at the edge (`rpc::status`).
use std::borrow::Cow;
use std::fmt;
use std::io;

/// What went wrong, in the words of gRPC's status codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The caller went away.
    Cancelled,
    /// A failure whose text a kubelet reads (`RegistryUnavailable: …`), without a code of its own.
    Unknown,
    /// The request can never work as it is.
    InvalidArgument,
    /// Time ran out.
    DeadlineExceeded,
    /// No such object.
    NotFound,
    /// The object is there already.
    AlreadyExists,
    /// The caller may not.
    PermissionDenied,
    /// No space, no memory, a limit reached.
    ResourceExhausted,
    /// The object is not in the state that the call needs.
    FailedPrecondition,
    /// Lost against a concurrent call.
    Aborted,
    /// An offset outside the object.
    OutOfRange,
    /// Not offered here.
    Unimplemented,
    /// A fault of ours or of the system.
    Internal,
    /// Try again later.
    Unavailable,
    /// Stored data is not what was stored.
    DataLoss,
    /// Credentials are missing or wrong.
    Unauthenticated,
}

/// Result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// The crate's error.
pub struct Error {
    kind: Kind,
    what: Cow<'static, str>,
    source: Option<Source>,
}

impl Error {
    /// An error without a cause.
    pub fn new(kind: Kind, what: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, what: what.into(), source: None }
    }
    /// `sandbox "ab12": not found`.
    pub fn not_found(object: &str, id: impl fmt::Display) -> Error {
        Error::new(Kind::NotFound, format!("{object} \"{id}\": not found"))
    }
    /// `image "x": already exists`.
    pub fn already_exists(object: &str, id: impl fmt::Display) -> Error {
        Error::new(Kind::AlreadyExists, format!("{object} \"{id}\": already exists"))
    }
    /// The request can never work; the text names the field.
    pub fn invalid(what: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::InvalidArgument, what)
    }
    /// The object is in the wrong state; the text names both.
    pub fn precondition(what: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::FailedPrecondition, what)
    }
    /// A fault of ours or of the system.
    pub fn internal(what: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Internal, what)
    }
    /// Adds the cause.
    pub fn because(mut self, cause: impl Into<Source>) -> Error {
        self.source = Some(cause.into());
        self
    }
    /// The same error under another kind.
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }
    /// The gRPC code it maps to.
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// Whether it says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }
    /// Joins what failed while cleaning up; the first error stays the one that is reported.
    pub fn and_also(mut self, other: Error) -> Error {
        self.what = Cow::Owned(format!("{} (and also: {})", self.what, other.chain()));
        self
    }
    /// The whole chain, outermost first: `a: b: c`.
    pub fn chain(&self) -> String {
        let mut text = self.what.to_string();
        let mut next: Option<&(dyn std::error::Error + 'static)> = self.source.as_ref().map(|s| s.as_ref() as _);
        while let Some(cause) = next {
            let line = cause.to_string();
            if !text.ends_with(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            // Our own Display stops at its own text, so the walk goes on through `source`.
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}

/// The kind that an errno says; what it does not say is `Internal`.
pub fn kind_of_io(error: &io::Error) -> Kind {
    use io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::AlreadyExists,
        E::StorageFull | E::QuotaExceeded | E::OutOfMemory => Kind::ResourceExhausted,
        E::TimedOut => Kind::DeadlineExceeded,
        _ => Kind::Internal,
    }
}

/// Says what was going on when a foreign error came.
pub trait Context<T> {
    /// Wraps the error as the cause of `what`.
    fn during<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    /// The kind is `Internal` unless the errno says that space ran out: a missing file of ours is no NOT_FOUND for the caller.
    fn during<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| {
            let kind = match kind_of_io(&e) {
                Kind::ResourceExhausted => Kind::ResourceExhausted,
                _ => Kind::Internal,
            };
            Error::new(kind, what()).because(e)
        })
    }
}

impl<T> Context<T> for Result<T> {
    fn during<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::new(e.kind, what()).because(e))
    }
}

impl<T> Context<T> for std::result::Result<T, rustix::io::Errno> {
    fn during<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(io::Error::from).during(what)
    }
}

impl<T> Context<T> for std::result::Result<T, serde_json::Error> {
    fn during<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::internal(what()).because(e))
    }
}

impl<T> Context<T> for std::result::Result<T, protobuf::Error> {
    fn during<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::new(Kind::InvalidArgument, what()).because(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_is_outermost_first() {
        let e: Result<()> = Err(io::Error::other("disk on fire")).during(|| "write blob");
        let e = e.during(|| "pull image").unwrap_err();
        assert_eq!(e.chain(), "pull image: write blob: disk on fire");
    }

    #[test]
    fn full_disk_is_resource_exhausted_and_missing_file_is_internal() {
        let full: Result<()> = Err(io::Error::from_raw_os_error(libc::ENOSPC)).during(|| "write");
        assert_eq!(full.unwrap_err().kind(), Kind::ResourceExhausted);
        let gone: Result<()> = Err(io::Error::from_raw_os_error(libc::ENOENT)).during(|| "open");
        assert_eq!(gone.unwrap_err().kind(), Kind::Internal);
    }
}
