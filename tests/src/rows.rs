//! Figures as rows: what benches and the demo print, as a table for people or one JSON object a line.

use serde_json::json;
use std::borrow::Cow;
use std::fmt;

/// The bound a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    None,
    Most(f64),
    Least(f64),
}

/// One figure: the median of its runs, or why there is none.
#[derive(Clone, Debug)]
pub struct Row {
    pub metric: Cow<'static, str>,
    pub unit: &'static str,
    pub goal: Goal,
    /// What it was measured on or compared with.
    pub against: String,
    value: Result<Spread, String>,
    series: Option<Series>,
}

/// How a figure went over time.
#[derive(Clone, Debug)]
struct Series {
    points: Vec<f64>,
    /// The top of the picture.
    most: f64,
}

impl Series {
    /// Most columns of a picture.
    const WIDE: usize = 100;

    /// A line of blocks, from nought to the most; each stands for so many points.
    fn picture(&self) -> String {
        const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let each = self.points.len().div_ceil(Self::WIDE).max(1);
        let block = |some: &[f64]| {
            let mean = some.iter().sum::<f64>() / some.len() as f64;
            BLOCKS[((mean / self.most.max(f64::MIN_POSITIVE) * 8.0).ceil() as usize).min(8)]
        };
        self.points.chunks(each).map(block).collect()
    }
}

/// Median of runs with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
    pub runs: usize,
}

impl Spread {
    #[must_use]
    pub fn of(runs: &[f64]) -> Option<Self> {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let mid = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[mid] } else { f64::midpoint(sorted[mid - 1], sorted[mid]) };
        Some(Self { low, median, high, runs: sorted.len() })
    }

    /// The median, and between which two runs the true one lies with 95 % confidence, however the runs are distributed: as
    /// many of n tosses of a coin fall on one side (normal approximation of the order statistics).
    #[must_use]
    pub fn confident(runs: &[f64]) -> Option<Self> {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let outside = ((n - 1.96 * n.sqrt()) / 2.0).max(0.0) as usize;
        let inside = Self::of(sorted.get(outside..sorted.len() - outside)?)?;
        Some(Self { runs: sorted.len(), ..inside })
    }
}

impl Row {
    #[must_use]
    pub fn new(metric: &'static str, unit: &'static str, goal: Goal, against: impl Into<String>, runs: &[f64]) -> Self {
        let value = Spread::of(runs).ok_or_else(|| "no run was completed".into());
        Self { metric: metric.into(), unit, goal, against: against.into(), value, series: None }
    }
    /// The same with the 95 % confidence interval of the median in place of the range.
    #[must_use]
    pub fn confident(metric: &'static str, unit: &'static str, goal: Goal, against: impl Into<String>, runs: &[f64]) -> Self {
        let value = Spread::confident(runs).ok_or_else(|| "no run was completed".into());
        Self { metric: metric.into(), unit, goal, against: against.into(), value, series: None }
    }
    /// A figure that cannot be had here.
    #[must_use]
    pub fn absent(metric: &'static str, unit: &'static str, goal: Goal, why: impl Into<String>) -> Self {
        Self { metric: metric.into(), unit, goal, against: String::new(), value: Err(why.into()), series: None }
    }
    /// How it went over time: numbers for programs, for people a picture whose top is `most`.
    #[must_use]
    pub fn over_time(self, points: &[f64], most: f64) -> Self {
        Self { series: Some(Series { points: points.to_vec(), most }), ..self }
    }
    /// The same figure of one of several grounds: `suffix` tells its name from the others', `ground` says which it is.
    #[must_use]
    pub fn of(mut self, suffix: &str, ground: &str) -> Self {
        self.metric.to_mut().push_str(suffix);
        let more = if self.against.is_empty() { "" } else { "; " };
        self.against += &format!("{more}{ground}");
        self
    }
    #[must_use]
    pub fn met(&self) -> bool {
        match (&self.value, self.goal) {
            (Err(_), _) => false,
            (Ok(_), Goal::None) => true,
            (Ok(v), Goal::Most(most)) => v.median <= most,
            (Ok(v), Goal::Least(least)) => v.median >= least,
        }
    }
    /// For programs.
    #[must_use]
    pub fn json(&self) -> String {
        let Self { metric, unit, goal, against, value, series } = self;
        let goal = (*goal != Goal::None).then(|| goal.to_string());
        let mut row = json!({"metric": metric, "unit": unit, "goal": goal, "against": against, "met": self.met(), "value": null});
        match value {
            Ok(Spread { low, median, high, runs }) => {
                row["value"] = json!(median);
                row["low"] = json!(low);
                row["high"] = json!(high);
                row["runs"] = json!(runs);
            }
            Err(why) => row["why"] = json!(why),
        }
        if let Some(Series { points, .. }) = series {
            row["series"] = points.iter().map(|point| (point * 1e4).round() / 1e4).collect();
        }
        row.to_string()
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Most(most) => write!(f, "<= {}", short(*most)),
            Self::Least(least) => write!(f, ">= {}", short(*least)),
        }
    }
}

/// Three significant digits for what is small, whole numbers for what is not.
fn short(v: f64) -> String {
    let text = match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        a if a >= 0.1 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Prints the rows for people or programs.
pub fn print(rows: &[Row], as_json: bool) {
    if as_json {
        rows.iter().for_each(|row| println!("{}", row.json()));
        return;
    }
    let value = |row: &Row| row.value.as_ref().map_or_else(|_| "-".to_owned(), |v| short(v.median));
    let spread = |row: &Row| match &row.value {
        Ok(v) if v.runs > 1 => format!("{} .. {} in {} runs", short(v.low), short(v.high), v.runs),
        Ok(_) => String::new(),
        Err(why) => why.clone(),
    };
    let met = |row: &Row| match (row.goal, row.met()) {
        (Goal::None, true) => "",
        (_, true) => "met",
        (_, false) => "NOT MET",
    };
    let wide = rows.iter().map(|r| r.metric.len()).max().unwrap_or(0);
    for row in rows {
        let line = format!(
            "{:wide$}  {:>10} {:<12} {:>10} {:<7}  {}  {}",
            row.metric,
            value(row),
            row.unit,
            row.goal.to_string(),
            met(row),
            spread(row),
            row.against
        );
        println!("{}", line.trim_end());
        if let Some(series) = &row.series {
            println!("{:wide$}  |{}| to {}", "", series.picture(), short(series.most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Goal, Row, Spread};

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { low: 1.0, median: 2.0, high: 3.0, runs: 3 }));
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(Spread { low: 1.0, median: 2.5, high: 4.0, runs: 2 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn outliers_leave_the_confidence_interval_alone() {
        let mut runs: Vec<f64> = (0..25).map(f64::from).collect();
        runs[24] = 1e9;
        // Ranks 8 and 18 of 25 by the binomial distribution.
        assert_eq!(Spread::confident(&runs), Some(Spread { low: 7.0, median: 12.0, high: 17.0, runs: 25 }));
        assert_eq!(Spread::confident(&[2.0]), Some(Spread { low: 2.0, median: 2.0, high: 2.0, runs: 1 }));
        assert_eq!(Spread::confident(&[]), None);
    }

    #[test]
    fn figures_of_several_grounds_have_names_of_their_own() {
        let row = |against| Row::new("recall", "", Goal::None, against, &[1.0]).of("_alone", "Linux 6.12");
        assert_eq!((row("16 pages").metric.as_ref(), row("16 pages").against.as_str()), ("recall_alone", "16 pages; Linux 6.12"));
        assert_eq!(row("").against, "Linux 6.12");
    }

    #[test]
    fn what_goes_over_time_is_told_in_numbers_and_shown() {
        let row = Row::new("misses", "%", Goal::None, "", &[25.0]).over_time(&[0.0, 0.123_456, 50.0, 100.0], 100.0);
        assert_eq!(row.series.as_ref().expect("told").picture(), " ▁▄█");
        assert!(row.json().contains(r#""series":[0.0,0.1235,50.0,100.0]"#), "{}", row.json());
        let long = Row::new("misses", "%", Goal::None, "", &[25.0]).over_time(&[100.0; 150], 100.0);
        assert_eq!(long.series.expect("told").picture(), "█".repeat(75));
    }

    #[test]
    fn a_figure_that_cannot_be_had_is_not_met_and_says_why() {
        let row = Row::absent("walk_ns_per_page", "ns", Goal::Most(2.0), "no BTF");
        assert_eq!(
            row.json(),
            r#"{"against":"","goal":"<= 2","met":false,"metric":"walk_ns_per_page","unit":"ns","value":null,"why":"no BTF"}"#
        );
        assert!(Row::new("x", "ns", Goal::Least(1.0), "", &[1.0]).met());
        assert!(!Row::new("x", "ns", Goal::Most(0.5), "", &[1.0]).met());
    }
}
