//! Which cgroup numa binds for a process whose rule says `cpuset = true`, and what is in the way: a cgroup is bound as one, so
//! all who are in it or below must be meant.

use super::View;
use crate::plan::Selection;
use crate::vocab::{Group, Need, ProcKey, ProcSample, Reason, Rule};
use std::collections::BTreeMap;

/// Everybody by the cgroup they are in; nobody where no rule asks for cgroups.
pub(super) struct Cgroups<'a>(BTreeMap<&'a str, Vec<&'a ProcSample>>);

impl<'a> Cgroups<'a> {
    pub fn of(view: &View<'a>) -> Self {
        let asked = view.config.target.iter().any(|rule| rule.cpuset == Some(true));
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for sample in view.models.procs.samples().filter(|_| asked) {
            all.entry(sample.cgroup.as_str()).or_default().push(sample);
        }
        Self(all)
    }

    /// The cgroup of a process, if its rule wants that bound.
    pub fn of_proc(&self, view: &View<'_>, sample: &ProcSample) -> Result<Option<Group>, Reason> {
        let selection = view.targets.selection(sample.proc);
        if !selection.cpuset() {
            return Ok(None);
        }
        let path = sample.cgroup.as_str();
        let refusal = |note: String| Err(Reason::new(Rule::CgroupBind).note(note));
        if let Err(lacks) = view.facts.has(Need::CgroupV2Memory) {
            return refusal(format!("target.cpuset needs cgroups of version 2 ({lacks}): without it threads are bound one by one"));
        }
        if path.is_empty() || path == "/" || sample.cgroup_id.0 == 0 {
            let note = "it is in the root cgroup, which cannot be bound, or in none that is seen: give it one of its own";
            return refusal(note.to_owned());
        }
        let inside = self.inside(path);
        let strangers: Vec<_> = inside.iter().filter(|one| !alike(selection, view.targets.selection(one.proc))).collect();
        if let Some(first) = strangers.first() {
            let (count, proc, comm) = (strangers.len(), first.proc, &first.comm);
            let note = format!(
                "{path} holds {count} processes that its rule does not select ({proc}, {comm}): select them too, or give it a cgroup of its own"
            );
            return refusal(note);
        }
        let mut members: Vec<ProcKey> = inside.iter().map(|one| one.proc).collect();
        members.sort_unstable();
        Ok(Some(Group { id: sample.cgroup_id, path: path.to_owned(), members }))
    }

    /// Who is in a cgroup or below.
    fn inside(&self, path: &str) -> Vec<&'a ProcSample> {
        let below = |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let from = self.0.range(path..).take_while(move |(other, _)| other.starts_with(path));
        from.filter(move |(other, _)| below(other)).flat_map(|(_, samples)| samples.iter().copied()).collect()
    }
}

/// Selected by the same rule, which wants cgroups bound.
fn alike(one: Selection, other: Selection) -> bool {
    match (one, other) {
        (Selection::Selected { rule: one, .. }, Selection::Selected { rule: other, cpuset: true, .. }) => one == other,
        (_, Selection::Selected { .. } | Selection::Excluded(_) | Selection::NotSelected | Selection::Protected(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{ANNA, BERT, Host, config};
    use crate::policy::board::Board;
    use crate::vocab::{Answer, CgroupId, Event, Fact, Sample};

    const BOTH: &str = "[[target]]\ncomm = '*'\ncpuset = true";

    /// Two nodes and cgroups of version 2; ANNA and BERT are in these.
    fn host(rules: &str, cgroups: [&str; 2]) -> Host {
        let mut host = Host::new(&config(rules));
        host.two_nodes([500, 500]);
        let mut facts = host.governor.facts().clone();
        facts.facts.insert(Need::CgroupV2Memory, Fact { answer: Answer::Yes, how: String::new(), remedy: String::new() });
        host.tell(Event::Facts(Box::new(facts)));
        for (proc, path) in [ANNA, BERT].into_iter().zip(cgroups) {
            let known = host.governor.view(host.now).models.procs.sample(proc).cloned().expect("told");
            let sample = ProcSample { cgroup: path.into(), cgroup_id: CgroupId(path.len() as u64), ..known };
            host.tell(Event::Sample(Sample::Proc(Box::new(sample))));
        }
        host
    }

    /// The cgroup to be bound for ANNA, and who is in it; or what is in the way.
    fn anna(host: &Host) -> Result<Option<(String, Vec<ProcKey>)>, String> {
        let view = host.governor.view(host.now);
        let sample = view.models.procs.sample(ANNA).expect("told");
        let group = Cgroups::of(&view).of_proc(&view, sample).map_err(|reason| reason.note)?;
        Ok(group.map(|group| (group.path, group.members)))
    }

    #[test]
    fn a_cgroup_is_bound_where_all_in_it_are_meant() {
        let all = Ok(Some(("/g".to_owned(), vec![ANNA, BERT])));
        assert_eq!(anna(&host(BOTH, ["/g", "/g"])), all);
        assert_eq!(anna(&host(BOTH, ["/g", "/g/sub"])), all);
        // What only begins alike is beside it.
        for beside in ["/", "/g-2", "/gg", "/f"] {
            assert_eq!(anna(&host(BOTH, ["/g", beside])), Ok(Some(("/g".to_owned(), vec![ANNA]))), "{beside}");
        }
        assert_eq!(anna(&host("[[target]]\ncomm = '*'", ["/g", "/g"])), Ok(None));
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        let shared = |path: &str| {
            format!(
                "{path} holds 1 processes that its rule does not select ({BERT}, bert): select them too, or give it a cgroup of its own"
            )
        };
        for other in [
            "",
            "\n[[target]]\ncomm = 'bert'",
            "\n[[target]]\ncomm = 'bert'\ncpuset = true",
            "\n[[target]]\ncomm = 'bert'\nexclude = true",
        ] {
            let rules = format!("[[target]]\ncomm = 'anna'\ncpuset = true{other}");
            assert_eq!(anna(&host(&rules, ["/g", "/g"])), Err(shared("/g")), "{other}");
            assert_eq!(anna(&host(&rules, ["/g", "/g/sub"])), Err(shared("/g")), "{other}");
        }
        let root = "it is in the root cgroup, which cannot be bound, or in none that is seen: give it one of its own";
        assert_eq!(anna(&host(BOTH, ["/", "/g"])), Err(root.to_owned()));
        assert_eq!(anna(&host(BOTH, ["", "/g"])), Err(root.to_owned()));
        let mut host = host(BOTH, ["/g", "/g"]);
        let mut facts = host.governor.facts().clone();
        facts.facts.remove(&Need::CgroupV2Memory);
        host.tell(Event::Facts(Box::new(facts)));
        let told = anna(&host).expect_err("version 1");
        assert!(told.starts_with("target.cpuset needs cgroups of version 2 (cgroup-v2-memory was not probed)"), "{told}");
    }

    #[test]
    fn the_first_stands_for_all_in_a_cgroup() {
        let check = |cgroups, leads: &[(ProcKey, Option<ProcKey>, u64)]| {
            let host = host(BOTH, cgroups);
            let view = host.governor.view(host.now);
            let Ok(mut board) = Board::of(&view) else { panic!("two nodes") };
            let candidates = board.candidates(&view).into_iter().map(|(_, one)| one.expect("to be placed"));
            let mut said: Vec<_> =
                candidates.map(|one| (one.proc, one.follows(), one.claims().pages.iter().sum::<u64>())).collect();
            said.sort_unstable();
            assert_eq!(said, leads);
        };
        let one = 5 * 512;
        check(["/g", "/g"], &[(ANNA, None, 2 * one), (BERT, Some(ANNA), one)]);
        check(["/g", "/g/below"], &[(ANNA, None, 2 * one), (BERT, Some(ANNA), one)]);
        check(["/g/below", "/g"], &[(ANNA, Some(BERT), one), (BERT, None, 2 * one)]);
        check(["/g", "/gg"], &[(ANNA, None, one), (BERT, None, one)]);
        check(["/g", "/other"], &[(ANNA, None, one), (BERT, None, one)]);
    }
}
