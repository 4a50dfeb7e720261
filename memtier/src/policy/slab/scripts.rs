//! memcached's two automover scripts as policies, for whoever wants their decisions in the pipeline of all others: compat/slab
//! decides, once a second, and what it decides is proposed with its reason. docs/slab-automove.md has the rules.

use super::super::{Proposal, View};
use super::{able, proposal, takeover};
use crate::compat::slab::{Aged, Move, Pass, Rule as Spoken};
use crate::model::caches::Scripted;
use crate::plan::Served;
use crate::vocab::{Action, ClassId, Measure, PolicyId, Quantity, Reason, Rule, ServerId, Span};

pub(super) fn step(view: &View<'_>, server: ServerId, by: PolicyId) -> Result<Proposal, Reason> {
    let (cache, served) = able(view, server)?;
    if by == PolicyId::SlabExtstore && !cache.server.extstore {
        let note = "it has no extstore; slab-automove is for servers without";
        return Err(Reason::new(Rule::HostLacks).note(format!("{}: {note}", cache.server.address)));
    }
    let proc = cache.server.proc.unwrap_or(server.nobody());
    if let Some(step) = takeover(view, server, cache, by) {
        return Ok(step);
    }
    let scripted = cache.scripted().ok_or_else(|| Reason::new(Rule::WarmUp).note("it was not looked at yet"))?;
    if let Some((chunks, reason)) = kept_free(scripted, served).filter(|_| view.config.daemon.act) {
        return Ok(proposal(by, Action::SetFree { server, proc, chunks }, u64::MAX, reason));
    }
    // Of one look comes one page.
    if let Some(served) = served.filter(|served| served.paged_at.is_some_and(|at| at >= scripted.at)) {
        let since = view.now.since(served.at);
        return Err(Reason::new(Rule::Settling).saw(Measure::SinceLastMove, since, Span::from_secs(1), ""));
    }
    let pass = scripted
        .pass
        .as_ref()
        .map_err(|raised| Reason::new(Rule::WarmUp).note(format!("the original breaks off here: {raised}")))?;
    let Some(Move { from, to }) = pass.decision else { return Err(refusal(pass)) };
    if !scripted.executes() {
        return Err(
            Reason::new(Rule::NotWorth).note("the original decides this, and does not do it: it takes no page from the pool")
        );
    }
    let reason = spoken(pass).note(format!("a page of {from} to {to} at {}", cache.server.address));
    Ok(proposal(by, Action::MoveSlabPage { server, proc, from, to }, 1, reason))
}

/// What the server was not told yet.
fn kept_free(scripted: &Scripted, served: Option<&Served>) -> Option<(Vec<(ClassId, u64)>, Reason)> {
    let told = |class: ClassId| served.and_then(|served| served.kept_free(class));
    let news = scripted.kept_free.iter().map(|(class, chunks)| (*class, *chunks));
    let news: Vec<(ClassId, u64)> = news.filter(|(class, chunks)| told(*class) != Some(*chunks)).collect();
    let &(first, chunks) = news.first()?;
    let was = Quantity::count(told(first).unwrap_or(0));
    let reason = Reason::new(Rule::SlabFlash).saw(Measure::FreeChunks, was, Quantity::count(chunks), "");
    Some((news, reason.note("what the script wants free in each class")))
}

/// The rule that spoke, with what it saw.
fn spoken(pass: &Pass) -> Reason {
    let age = |aged: Option<Aged>| Span::from_millis(aged.map_or(0, |aged| (aged.age * 1000.0) as u64));
    let (pool, shall) = (Quantity::count(pass.pool.unwrap_or(0)), Quantity::count(pass.pool_target));
    match pass.rule {
        Spoken::Free => Reason::new(Rule::SlabFree).saw(
            Measure::Rounds,
            Quantity::count(pass.looks as u64),
            Quantity::count(pass.window as u64),
            "",
        ),
        Spoken::PoolHigh | Spoken::PoolLow => Reason::new(Rule::SlabAge).saw(Measure::SlabPages, pool, shall, ""),
        Spoken::TooYoung | Spoken::Even | Spoken::HasFree | Spoken::NeverFull => {
            let bound = Span(age(pass.oldest).0 / 1000 * Scripted::ratio_permil());
            Reason::new(Rule::SlabAge).saw(Measure::ItemAge, age(pass.youngest), bound, "")
        }
    }
}

/// Why nothing moves.
fn refusal(pass: &Pass) -> Reason {
    let (looks, window) = (Quantity::count(pass.looks as u64), Quantity::count(pass.window as u64));
    if pass.looks < pass.window && pass.rule != Spoken::NeverFull {
        return Reason::new(Rule::WarmUp).saw(Measure::Rounds, looks, window, "");
    }
    match pass.rule {
        Spoken::NeverFull => Reason::new(Rule::WarmUp).note("nothing was evicted yet"),
        Spoken::HasFree => Reason::new(Rule::HasFree).note("the youngest class has free chunks"),
        Spoken::Free | Spoken::PoolHigh | Spoken::PoolLow | Spoken::TooYoung | Spoken::Even => {
            let Reason { evidence, .. } = spoken(pass);
            Reason { evidence, ..Reason::new(Rule::NotWorth) }
        }
    }
}
