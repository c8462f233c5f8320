//! Signals: numbers and names, the kernel's of x86-64 and arm64.
use crate::error::{Error, Result};
use crate::proto::cri::{ContainerConfig, Signal};
use oci_spec::image::ImageConfiguration;

const SIGTERM: u32 = 15;
const SIGRTMIN: u32 = 34;
const SIGRTMAX: u32 = 64;
/// From 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const ALIASES: [(&str, u32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

/// What stops a container: the request's signal, else the image's, else SIGTERM.
pub fn stop_signal(config: &ContainerConfig, image: &ImageConfiguration) -> Result<u32> {
    match config.stop_signal.enum_value() {
        Ok(Signal::RUNTIME_DEFAULT) => {}
        Ok(named) => {
            // The enum writes RTMIN+1 as RTMINPLUS1.
            let name = format!("{named:?}").replace("PLUS", "+").replace("MINUS", "-");
            return parse(&name).ok_or_else(|| Error::invalid(format!("stop_signal: {name} is not known here")));
        }
        Err(number) => return Err(Error::invalid(format!("stop_signal: {number} is not in the list of signals"))),
    }
    match image.config().as_ref().and_then(|c| c.stop_signal().as_deref()) {
        None | Some("") => Ok(SIGTERM),
        Some(name) => parse(name).ok_or_else(|| Error::invalid(format!("StopSignal \"{name}\" of the image is no signal"))),
    }
}

/// `SIGQUIT`, `quit`, `3`, `SIGRTMIN+2`.
fn parse(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, sign: char| if rest.is_empty() { Some(0) } else { rest.strip_prefix(sign)?.parse::<u32>().ok() };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(rest, '+').map(|n| SIGRTMIN.saturating_add(n)).filter(|n| *n <= SIGRTMAX);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(rest, '-').map(|n| SIGRTMAX.saturating_sub(n)).filter(|n| *n >= SIGRTMIN);
    }
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, n)| *n);
    alias.or_else(|| NAMES.iter().zip(1..).find(|(known, _)| **known == name).map(|(_, n)| n))
}

/// The name that CRI's enum has for a number.
pub fn signal_name(number: u32) -> Option<String> {
    if (SIGRTMIN..=SIGRTMAX).contains(&number) {
        let up = number - SIGRTMIN;
        return Some(match SIGRTMAX - number {
            0 => "SIGRTMAX".into(),
            down if down < 15 => format!("SIGRTMAXMINUS{down}"),
            _ if up == 0 => "SIGRTMIN".into(),
            _ => format!("SIGRTMINPLUS{up}"),
        });
    }
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    NAMES.get(index).map(|name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Enum;

    #[test]
    fn every_signal_of_cri_has_a_number_and_the_way_back() {
        for signal in Signal::VALUES.iter().filter(|s| **s != Signal::RUNTIME_DEFAULT) {
            let config = ContainerConfig { stop_signal: (*signal).into(), ..ContainerConfig::default() };
            let number = stop_signal(&config, &ImageConfiguration::default()).unwrap();
            let back = Signal::from_str(&signal_name(number).unwrap()).unwrap();
            let config = ContainerConfig { stop_signal: back.into(), ..ContainerConfig::default() };
            assert_eq!(stop_signal(&config, &ImageConfiguration::default()).unwrap(), number, "{signal:?}");
        }
        assert_eq!((signal_name(0), signal_name(32), signal_name(65)), (None, None, None));
    }

    #[test]
    fn of_images() {
        let table = [
            ("", Some(15)),
            ("SIGQUIT", Some(3)),
            ("quit", Some(3)),
            ("3", Some(3)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN+99", None),
            ("SIGRTMAX-40", None),
            ("SIGNOPE", None),
        ];
        for (text, expected) in table {
            let mut image = ImageConfiguration::default();
            let mut config = oci_spec::image::Config::default();
            config.set_stop_signal(Some(text.into()));
            image.set_config(Some(config));
            assert_eq!(stop_signal(&ContainerConfig::default(), &image).ok(), expected, "{text}");
        }
    }
}
