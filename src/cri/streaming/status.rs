//! Status: what the error stream says at the end, in the words that kubectl and crictl read exit codes from.
use super::http::Version;
use crate::error::Error;
use serde_json::json;

/// How a session ended.
#[derive(Debug)]
pub enum Outcome {
    /// Exit code 0, or all was said.
    Success,
    /// Another exit code.
    Code {
        /// The command, for the message.
        cmd: Vec<String>,
        /// The code.
        code: u32,
    },
    /// It could not be done.
    Failed(Error),
}

impl Outcome {
    /// Bytes for the error stream; before version 4 a success says nothing.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let message = match self {
            Outcome::Success => String::new(),
            Outcome::Code { cmd, code } => {
                format!("command terminated with non-zero exit code: error executing command [{}], exit code {code}", cmd.join(" "))
            }
            Outcome::Failed(e) => format!("Internal error occurred: {}", e.chain()),
        };
        if version < Version::V4 {
            return message.into_bytes();
        }
        let status = match self {
            Outcome::Success => json!({"metadata": {}, "status": "Success"}),
            Outcome::Code { code, .. } => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Outcome::Failed(_) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_json_from_version_4_on() {
        let code = Outcome::Code { cmd: vec!["sh".into(), "-c".into()], code: 7 };
        let status: serde_json::Value = serde_json::from_slice(&code.bytes(Version::V5)).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        assert!(String::from_utf8(code.bytes(Version::V1)).unwrap().ends_with("[sh -c], exit code 7"));
        let success: serde_json::Value = serde_json::from_slice(&Outcome::Success.bytes(Version::V4)).unwrap();
        assert_eq!(success["status"], "Success");
        assert!(Outcome::Success.bytes(Version::V3).is_empty());
        let failed = Outcome::Failed(Error::not_found("container", "x")).bytes(Version::V4);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&failed).unwrap()["code"], 500);
    }
}
