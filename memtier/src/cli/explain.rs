//! `memtier explain`: why something was done, or not.

use super::{Common, Ended, Exit, Trouble, print_json};
use crate::plan::Explanation;
use crate::sys::clock::{boottime, unix_at_zero};
use crate::vocab::{Span, Time};
use jiff::civil::{self, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use std::io::Write as _;
use std::str::FromStr;

/// Say why memtier did or did not do something: rule, numbers seen, bounds, and the knob value that would have changed it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process; without it, the host and the policies
    pid: Option<u32>,
    /// A moment: as the decision log prints it ("812.250s"), back from now ("-90s", "-5m", "-2h"), or by the wall clock
    /// ("14:05", "14:05:30": the last one; "2026-05-01 14:05:30"; RFC 3339)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Of the event clock.
    Event(Time),
    Ago(Span),
    Wall(Timestamp),
    /// In the time zone of the host.
    Local(DateTime),
    /// The last time that clocks here showed this.
    Daily(civil::Time),
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected seconds of the event clock as in the decision log (812.250s), a time back from now (-90s, -5m, \
             -2h), or one of the wall clock (14:05:30, \"2026-05-01 14:05:30\", RFC 3339)";
        if let Some(back) = text.strip_prefix('-') {
            let (digits, unit) = back.split_at(back.find(|c: char| !c.is_ascii_digit()).unwrap_or(back.len()));
            let count: u64 = digits.parse().map_err(|_| WRONG)?;
            let seconds = match unit {
                "" | "s" => 1,
                "m" | "min" => 60,
                "h" => 3600,
                _ => return Err(WRONG),
            };
            return Ok(Self::Ago(Span::from_secs(count.saturating_mul(seconds))));
        }
        if text.contains(':') {
            // The stricter form first: what names its zone must not be read as if it did not.
            let stamp = text.parse().map(Self::Wall);
            let local =
                stamp.or_else(|_| if text.contains('-') { text.parse().map(Self::Local) } else { text.parse().map(Self::Daily) });
            return local.map_err(|_| WRONG);
        }
        let (seconds, fraction) = text.trim_end_matches('s').split_once('.').unwrap_or((text.trim_end_matches('s'), "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
            return Err(WRONG);
        }
        let seconds = Span::from_secs(seconds.parse().map_err(|_| WRONG)?);
        let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| WRONG)?;
        // The log cuts times off at milliseconds: what it shows at .250 happened before .251.
        let whole = seconds.0.saturating_add(nanos);
        Ok(Self::Event(Time(if fraction.len() == 3 { whole.saturating_add(999_999) } else { whole })))
    }
}

impl Moment {
    /// On the event clock, where that is at `now` and its zero at `unix_at_zero`.
    fn on_event_clock(self, now: Time, unix_at_zero: i64, zone: &TimeZone) -> anyhow::Result<Time> {
        let wall = match self {
            Self::Event(time) => return Ok(time),
            Self::Ago(span) => return Ok(Time(now.0.saturating_sub(span.0))),
            Self::Wall(stamp) => stamp,
            Self::Local(local) => zone.to_timestamp(local)?,
            Self::Daily(time) => {
                let present = stamp(now, unix_at_zero)?.to_zoned(zone.clone());
                let today = present.date().to_datetime(time);
                let last = if today > present.datetime() { today.checked_sub(1.day())? } else { today };
                zone.to_timestamp(last)?
            }
        };
        let at = wall.as_nanosecond() - i128::from(unix_at_zero);
        // A second named without a fraction is meant whole.
        let whole = if wall.subsec_nanosecond() == 0 { at + 999_999_999 } else { at };
        u64::try_from(whole).map(Time).map_err(|_| anyhow::anyhow!("{wall} was before this boot"))
    }
}

fn stamp(at: Time, unix_at_zero: i64) -> Result<Timestamp, jiff::Error> {
    Timestamp::from_nanosecond(i128::from(at.0) + i128::from(unix_at_zero))
}

/// As the log prints it, and by the wall clock.
fn both(at: Time, unix_at_zero: i64, zone: &TimeZone) -> String {
    match stamp(at, unix_at_zero) {
        Ok(stamp) => format!("{at} ({})", stamp.to_zoned(zone.clone()).strftime("%F %T%:z")),
        Err(_) => at.to_string(),
    }
}

pub fn run(common: &Common, Args { pid, at }: &Args) -> Ended {
    let zone = TimeZone::system();
    let at = at.map(|moment| moment.on_event_clock(boottime(), unix_at_zero(), &zone)).transpose();
    let at = at.map_err(|error| Trouble::new(Exit::Usage, error).next("`memtier explain` says since when the journal tells"))?;
    let pid = pid.map(|pid| format!("pid={pid}"));
    let args: Vec<String> = pid.into_iter().chain(at.map(|at| format!("at={}", at.0))).collect();
    let explanation: Explanation =
        common.client()?.get(&format!("/v1/explain?{}", args.join("&"))).map_err(Trouble::from_daemon)?;
    if common.json {
        print_json(&explanation)?;
    } else {
        let mut text = String::new();
        let zero = explanation.unix_at_zero;
        explanation.tell(&mut text, &|at| zero.map_or_else(|| at.to_string(), |zero| both(at, zero, &zone)))?;
        write!(std::io::stdout(), "{text}")?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-05-01 12:00:00.5 UTC was zero of the event clock.
    const ZERO: i64 = 1_777_636_800_500_000_000;

    #[test]
    fn moments() {
        let clock = |ns| Ok(Moment::Event(Time(ns)));
        for (text, expect) in [
            ("812.250s", clock(812_250_999_999)),
            ("812", clock(812_000_000_000)),
            ("812.25", clock(812_250_000_000)),
            ("-5m", Ok(Moment::Ago(Span::from_secs(300)))),
            ("-2h", Ok(Moment::Ago(Span::from_secs(7200)))),
        ] {
            assert_eq!(text.parse::<Moment>(), expect, "{text}");
        }
        for text in ["", "-", "-5x", "25:00", "12:30x", "1.2.3", "1.0123456789", "2026-13-01 10:00:00"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn moments_of_the_wall_clock() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let now = Time(Span::from_secs(7200).0);
        // 16:00:00.5 there by now; the whole second that is named counts.
        let end_of = |seconds: u64| Time(seconds * 1_000_000_000 - 500_000_001);
        for (text, expect) in [
            ("2026-05-01T12:30:00Z", end_of(1801)),
            ("2026-05-01T14:30:00+02:00", end_of(1801)),
            ("2026-05-01 14:30:00", end_of(1801)),
            ("15:59:59", end_of(7200)),
            ("14:30", end_of(1801)),
            ("2026-05-01T12:00:01.75Z", Time(1_250_000_000)),
        ] {
            let moment: Moment = text.parse().expect(text);
            assert_eq!(moment.on_event_clock(now, ZERO, &zone).expect(text), expect, "{text}");
        }
        // Yesterday evening, and before the boot.
        for text in ["17:00", "2026-05-01 13:59:59"] {
            let moment: Moment = text.parse().expect(text);
            let error = moment.on_event_clock(now, ZERO, &zone).expect_err(text).to_string();
            assert!(error.ends_with("was before this boot"), "{error}");
        }
        assert_eq!(both(Time(812_250_000_000), ZERO, &zone), "812.250s (2026-05-01 14:13:32+02:00)");
    }
}
