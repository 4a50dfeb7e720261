//! What one of memcached's automover scripts remembers of a server and decides, where a rule wants that: it is shown one look a
//! second (compat/slab).
//!
//! Deliberately absent: what comes of a decision. The ledger knows whom a server refused.

use crate::compat::slab::defaults::{FREE, RATIO, SIZE, WINDOW};
use crate::compat::slab::{ClassStats, Mode, Mover, Pass, Raised, Sample, Script, Settings};
use crate::config::CacheRule;
use crate::vocab::{CacheLook, ClassId, ClassLook, PolicyId, ServerLife, Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The scripts look once a second; one that comes a little early counts.
const LOOK: Span = Span::from_millis(900);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scripted {
    settings: Settings,
    mover: Mover,
    /// The last look that it was shown.
    pub at: Time,
    pub pass: Result<Pass, Raised>,
    /// Free chunks that classes shall have.
    pub kept_free: BTreeMap<ClassId, u64>,
}

/// Ages and shares are numbers: nothing is divided by nought.
impl Eq for Scripted {}

/// None: the rule wants none.
pub(super) fn settings(rule: &CacheRule) -> Option<Settings> {
    let script = match rule.policy() {
        PolicyId::SlabExtstore => Script::Extstore { free: FREE, size: SIZE },
        PolicyId::SlabAutomove => Script::Plain,
        PolicyId::Watch
        | PolicyId::Arm
        | PolicyId::Slide
        | PolicyId::Autocold
        | PolicyId::Numa
        | PolicyId::Tier
        | PolicyId::SlabMarginal => return None,
    };
    let mode = if rule.compat.is_some() { Mode::Compat2017 } else { Mode::Repaired };
    Some(Settings { mode, script, window: WINDOW, ratio: RATIO })
}

impl Scripted {
    /// What it is after this look; one that has other settings begins anew.
    pub(super) fn look(this: Option<Self>, settings: Settings, at: Time, life: Option<ServerLife>, look: &CacheLook) -> Self {
        let mut this = this.filter(|known| known.settings == settings).unwrap_or_else(|| Self {
            settings,
            mover: Mover::new(settings),
            at: Time::ZERO,
            pass: Ok(Pass::default()),
            kept_free: BTreeMap::new(),
        });
        if at.since(this.at) >= LOOK {
            this.at = at;
            this.pass = this.mover.look(sample(life, look), Duration::from_nanos(at.0));
            if let Ok(pass) = &this.pass {
                this.kept_free.extend(pass.targets.iter().copied());
            }
        }
        this
    }

    pub(super) fn disconnected(&mut self) {
        self.mover.disconnected();
    }

    /// Whether the script would do what it decided.
    #[must_use]
    pub fn executes(&self) -> bool {
        self.pass.as_ref().is_ok_and(|pass| pass.decision.is_some_and(|due| self.mover.executes(due)))
    }
    /// A class is too young below this part of the age of the oldest, in thousandths.
    #[must_use]
    pub const fn ratio_permil() -> u64 {
        (RATIO * 1000.0) as u64
    }

    pub(super) const fn bytes() -> u64 {
        // A mark for each class of each look.
        WINDOW as u64 * 64 * 64
    }
}

/// A class without items is not listed among the items.
fn sample(life: Option<ServerLife>, look: &CacheLook) -> Sample {
    let class = |class: &ClassLook| {
        let of_items = |value| (class.items > 0).then_some(value);
        let stats = ClassStats {
            chunk_size: Some(class.chunk_size),
            chunks_per_page: Some(class.chunks_per_page),
            total_pages: Some(class.pages),
            used_chunks: Some(class.used),
            free_chunks: Some(class.free),
            number: of_items(class.items),
            age: of_items(class.age),
            evicted: of_items(class.evicted),
        };
        (class.class, stats)
    };
    let evictions = look.classes.iter().map(|class| class.evicted).fold(0, u64::saturating_add);
    Sample { life, pool: Some(look.pool), evictions: Some(evictions), classes: look.classes.iter().map(class).collect() }
}
