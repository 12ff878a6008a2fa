//! The names of Linux's signals.

/// `SIGRTMIN` in C libraries, which reserve the first two.
const RTMIN: u32 = 34;
/// `SIGRTMAX`.
const RTMAX: u32 = 64;

/// The names of signals from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Returns the number of a signal: `TERM`, `SIGTERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`, in any case.
pub fn number(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse::<u32>() {
        return Some(number).filter(|number| (1..=RTMAX).contains(number));
    }
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return u32::try_from(at + 1).ok();
    }
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<u32>().ok(),
    };
    let number = match name {
        "CLD" => Some(17),
        "IOT" => Some(6),
        "POLL" => Some(29),
        _ => match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(after), _) => RTMIN.checked_add(offset(after, '+')?),
            (_, Some(after)) => RTMAX.checked_sub(offset(after, '-')?),
            (None, None) => None,
        },
    };
    number.filter(|number| (1..=RTMAX).contains(number))
}

/// Returns the name of a signal without `SIG`; real-time signals count from `RTMIN`.
pub fn name(number: u32) -> Option<String> {
    let at = usize::try_from(number).ok()?.checked_sub(1)?;
    match NAMES.get(at) {
        Some(name) => Some((*name).to_owned()),
        None if number == RTMIN => Some("RTMIN".to_owned()),
        None if (RTMIN..=RTMAX).contains(&number) => Some(format!("RTMIN+{}", number - RTMIN)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMIN", 34),
            ("WINCH", 28),
            ("CLD", 17),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in [
            "", "SIG", "0", "65", "RTMIN+31", "RTMIN-1", "RTMAX-64", "TERM+1", "-9",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn every_name_parses_back_to_its_number() {
        for signal in (1..=31).chain(34..=64) {
            let name = name(signal).expect("named");
            assert_eq!(number(&name), Some(signal), "{name}");
        }
        assert_eq!((name(0), name(32), name(65)), (None, None, None));
    }
}
