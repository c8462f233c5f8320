//! Stop signals: CRI's enum, and the names and numbers that images use.
use crate::error::{Error, Result};
use crate::proto::cri;
use protobuf::Enum;

/// Names and numbers of Linux (x86, Arm, RISC-V; the real-time ones count from glibc's first).
const NAMES: [(&str, u32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", RTMIN),
];
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// SIGTERM.
pub const TERM: u32 = 15;

/// The number of `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub fn parse(text: &str) -> Result<u32> {
    let bad = || Error::invalid(format!("stop signal {text:?}: not a signal"));
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Ok(*number);
    }
    let number = if name == "RTMAX" {
        Some(RTMAX)
    } else if let Some(n) = name.strip_prefix("RTMIN+") {
        n.parse::<u32>().ok().and_then(|n| RTMIN.checked_add(n))
    } else if let Some(n) = name.strip_prefix("RTMAX-") {
        n.parse::<u32>().ok().and_then(|n| RTMAX.checked_sub(n))
    } else {
        None
    };
    number.filter(|n| (RTMIN..=RTMAX).contains(n)).ok_or_else(bad)
}

/// CRI's name of a number: the first of its enum that has it.
pub fn name(number: u32) -> Option<String> {
    cri::Signal::VALUES.iter().find(|s| from_cri(**s) == Some(number)).map(|s| format!("{s:?}"))
}

/// The number of CRI's value; `None` is RUNTIME_DEFAULT.
pub fn from_cri(signal: cri::Signal) -> Option<u32> {
    let name = format!("{signal:?}");
    match signal {
        cri::Signal::RUNTIME_DEFAULT => None,
        // Their names spell the operator out.
        _ => parse(&name.replace("PLUS", "+").replace("MINUS", "-")).ok(),
    }
}

/// What StopContainer sends: the request's, else the image's, else SIGTERM.
pub fn stop(config: &cri::ContainerConfig, image: Option<&str>) -> Result<u32> {
    let asked = config.stop_signal.enum_value().map_err(|n| Error::invalid(format!("stop_signal: unknown value {n}")))?;
    match (from_cri(asked), image) {
        (Some(number), _) => Ok(number),
        (None, Some(text)) if !text.is_empty() => parse(text),
        _ => Ok(TERM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_of_cri_have_a_number() {
        for signal in cri::Signal::VALUES.iter().filter(|s| **s != cri::Signal::RUNTIME_DEFAULT) {
            assert!(from_cri(*signal).is_some(), "{signal:?}");
        }
        assert_eq!(from_cri(cri::Signal::SIGRTMINPLUS15), Some(49));
        assert_eq!(from_cri(cri::Signal::SIGRTMAXMINUS14), Some(50));
        assert_eq!(from_cri(cri::Signal::SIGRTMAX), Some(64));
        assert_eq!(name(3).as_deref(), Some("SIGQUIT"));
        assert_eq!(name(35).as_deref(), Some("SIGRTMINPLUS1"));
        assert_eq!(name(0), None);
    }

    #[test]
    fn forms_of_images() {
        for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMIN", 34)] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+31", "SIGRTMAX-99", "RTMIN+-1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn request_wins_over_image() {
        let mut config = cri::ContainerConfig::new();
        assert_eq!(stop(&config, Some("SIGINT")).unwrap(), 2);
        config.stop_signal = cri::Signal::SIGUSR1.into();
        assert_eq!(stop(&config, Some("SIGINT")).unwrap(), 10);
        config.stop_signal = protobuf::EnumOrUnknown::from_i32(99);
        assert!(stop(&config, None).unwrap_err().chain().contains("stop_signal"));
    }
}
