//! The value of `-w`: `n[.dd][:MB]`.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// CPUs in hundredths and memory in MiB: what is asked for, what is given, what is still lacking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub cpus: u64,
    pub mb: u64,
}

/// Also what numad says of other values that it cannot read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Can't parse arg value(s): {0}")]
pub struct Unparsable(pub String);

/// The original counts in C's int; what does not fit there is no request of a host that exists.
const MOST: u64 = i32::MAX as u64;

impl FromStr for Request {
    type Err = Unparsable;

    fn from_str(text: &str) -> Result<Self, Unparsable> {
        let (cpus, mb) = text.split_once(':').map_or((text, None), |(cpus, mb)| (cpus, Some(mb)));
        let (whole, decimals) = cpus.split_once('.').map_or((cpus, None), |(whole, decimals)| (whole, Some(decimals)));
        (|| {
            let hundredths = match decimals {
                None => 0,
                Some(one) if one.len() == 1 => number(one)? * 10,
                Some(two) if two.len() == 2 => number(two)?,
                Some(_) => return None,
            };
            let cpus = number(whole)? * 100 + hundredths;
            let mb = mb.map_or(Some(0), number)?;
            (cpus <= MOST).then_some(Self { cpus, mb })
        })()
        .ok_or_else(|| Unparsable(text.to_owned()))
    }
}

/// Digits only: no sign, no blank, nothing empty.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n <= MOST)
}

#[cfg(test)]
mod tests {
    use super::{Request, Unparsable};
    use proptest::prelude::*;

    #[test]
    fn requests() {
        for (text, cpus, mb) in [
            ("4", 400, 0),
            ("4:8192", 400, 8192),
            ("1.5", 150, 0),
            ("1.05:1", 105, 1),
            ("0:0", 0, 0),
            ("0.01", 1, 0),
            ("21474836.47:2147483647", i32::MAX as u64, i32::MAX as u64),
        ] {
            assert_eq!(text.parse(), Ok(Request { cpus, mb }), "{text}");
        }
        for text in [
            "",
            ":",
            "4:",
            ":4",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.",
            ".5",
            "1.555",
            "1.-5",
            "1.+5",
            "1:-2",
            "1:2:3",
            "1.5.5",
            "x",
            "4:8G",
            "1,2",
            "21474836.48",
            "1:2147483648",
            "99999999999999999999",
            "\u{664}",
        ] {
            let error = text.parse::<Request>().expect_err(text);
            assert_eq!(error, Unparsable(text.to_owned()));
            assert_eq!(error.to_string(), format!("Can't parse arg value(s): {text}"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,12}") {
            let _ = text.parse::<Request>();
        }
        #[test]
        fn what_is_written_is_read(whole in 0..20_000_000u64, hundredths in 0..100u64, mb in 0..1u64 << 31) {
            let read = format!("{whole}.{hundredths:02}:{mb}").parse::<Request>();
            prop_assert_eq!(read, Ok(Request { cpus: whole * 100 + hundredths, mb }));
        }
    }
}
