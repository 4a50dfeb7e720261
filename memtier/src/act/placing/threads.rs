//! Threads bound one by one, on the same fake table: who is bound, what is kept of them, and what others did stays.

use super::*;

#[test]
fn every_thread_is_kept_and_then_bound() {
    let (outcome, world) = bind(World::threads(&["0-3"; 300]), "0-1");
    assert_eq!(told(&outcome), said(300, 300, "done"));
    assert!(world.tasks.values().all(|(_, cpus)| *cpus == mask("0-1")));
    // All at once, so that the medium is waited for once; the later ones only name theirs.
    assert_eq!(world.keeps.iter().map(|more| more.tasks.len()).collect::<Vec<_>>(), [300, 128, 44]);
    let kept = &world.kept[&PROC];
    assert_eq!((kept.since, &kept.usual, &kept.online), (123, &mask("0-3"), &mask("0-3")));
}

#[test]
fn threads_born_meanwhile_are_bound_too() {
    let mut world = World::threads(&["0-3"; 3]);
    let mut born = 0;
    // Thread 9 is the last to be bound, and makes threads until it is.
    world.hook = Some(Box::new(move |world, call| {
        let (_, cpus) = world.tasks[&9].clone();
        if call == "bind" && cpus == mask("0-3") && born < 20 {
            born += 1;
            world.tasks.insert(100 + born, (200, cpus));
        }
    }));
    let (outcome, world) = bind(world, "2");
    let all = world.tasks.len() as u64;
    assert!(all > 5, "{all}");
    assert_eq!(told(&outcome), said(all, all, "done"));
    assert!(world.tasks.values().all(|(_, cpus)| *cpus == mask("2")));
}

/// Start times are told in ticks: who was born in the tick in which the bind began was not born bound.
#[test]
fn a_thread_of_the_same_tick_keeps_its_own_mask() {
    let mut world = World::threads(&["0-3"]);
    world.tasks.extend([(20, (123, mask("0"))), (21, (123, mask("0-3")))]);
    world.hook = Some(Box::new(|world, call| {
        if call == "bind" {
            world.tasks.insert(22, (123, mask("0")));
        }
    }));
    let (outcome, world) = bind(world, "0");
    assert_eq!(told(&outcome), said(4, 4, "done"));
    let kept = &world.kept[&PROC];
    let whose = |tid| kept.whose(&Task { key: TaskKey { tid, start: 123 }, cpus: mask("0") }, &mask("0-7"));
    assert_eq!([20, 21, 22].map(whose), [Whose::Own, Whose::Ours(mask("0-3")), Whose::Ours(mask("0-3"))]);
}

#[test]
fn threads_born_faster_than_they_are_bound() {
    let mut world = World::threads(&["0-3"]);
    let mut born = 0;
    world.hook = Some(Box::new(move |world, call| {
        if call == "tasks" {
            born += 1;
            world.tasks.insert(100 + born, (200, mask("0-3")));
        }
    }));
    let (outcome, _) = bind(world, "2");
    assert_eq!(told(&outcome), said(65, 66, "partly done: 1 task not bound yet when it ended"));
}

#[test]
fn what_others_bound_is_left_alone() {
    // The fourth and the last were bound by somebody, the fifth too, but within what is wanted.
    let (outcome, world) = bind(World::threads(&["0-3", "0-3", "0-3", "1-2", "0", "4-7"]), "0-1");
    assert_eq!(told(&outcome), said(4, 6, "partly done: 2 tasks left alone: bound by somebody else"));
    assert_eq!(world.binds.iter().map(|(tid, _)| *tid).collect::<Vec<_>>(), [7, 8, 9]);
    let (outcome, _) = bind(World::threads(&["0-1", "0-1"]), "2-3");
    assert_eq!(told(&outcome), said(0, 2, "partly done: 2 tasks may run on none of these CPUs"));
    // Not one gets a CPU that it did not have.
    let (outcome, world) = bind(World::threads(&["0-2", "0-2", "0-3"]), "2-3");
    assert_eq!(told(&outcome), said(3, 3, "done"));
    assert_eq!(world.binds, [(7, "2".into()), (8, "2".into()), (9, "2-3".into())]);
}

#[test]
fn refusals_are_told_by_reason_and_not_asked_again() {
    let mut world = World::threads(&["0-3"; 5]);
    world.refuses = [(8, libc::EINVAL), (9, libc::EPERM), (10, libc::EPERM)].into();
    let (outcome, world) = bind(world, "0");
    let why = "partly done: 2 tasks refused: no right to bind it, \
               1 task refused: its cpuset forbids these CPUs, or it is a kernel thread tied to its own";
    assert_eq!(told(&outcome), said(2, 5, why));
    assert_eq!(world.keeps.len(), 1);
}

#[test]
fn a_process_and_a_thread_that_die_under_the_bind() {
    let mut world = World::threads(&["0-3"; 4]);
    world.hook = Some(Box::new(|world, call| {
        if call == "bind" {
            world.tasks.remove(&10);
        }
    }));
    let (outcome, _) = bind(world, "0");
    assert_eq!(told(&outcome), said(3, 3, "done"));

    let mut world = World::threads(&["0-3"; 4]);
    world.hook = Some(Box::new(|world, _| {
        if world.binds.len() == 2 {
            (world.owner.start, world.tasks) = (71, BTreeMap::new());
        }
    }));
    let (outcome, _) = bind(world, "0");
    assert_eq!(told(&outcome), said(2, 2, "partly done: stopped: pid 7 is gone or its pid is reused"));

    let mut world = World::threads(&["0-3"; 4]);
    world.owner.start = 71;
    let (outcome, world) = bind(world, "0");
    assert_eq!((outcome.end, world.binds.len()), (End::Skipped(Guard::Alive(PROC)), 0));
}

#[test]
fn without_a_diary_nothing_is_changed() {
    let mut world = World::threads(&["0-3"; 4]);
    world.diary_full = true;
    let (outcome, world) = bind(world, "0");
    let End::Failed(Fault { call, errno: libc::ENOSPC, .. }) = &outcome.end else { panic!("{}", outcome.end) };
    assert_eq!((call.as_str(), world.binds.len()), ("keeping what the threads had", 0));
}

#[test]
fn bound_anew_it_is_from_what_it_had_first() {
    let (_, world) = bind(World::threads(&["0-3", "0-3", "0-2"]), "0-1");
    let (outcome, mut world) = bind(World { keeps: Vec::new(), ..world }, "2-3");
    assert_eq!(told(&outcome), said(2, 3, "partly done: 1 task left alone: bound by somebody else"));
    assert_eq!(world.tasks[&7].1, mask("2-3"));
    assert_eq!(world.kept[&PROC].tasks.values().collect::<BTreeSet<_>>(), [&mask("0-3")].into());
    // What somebody set since is not ours any more, and a thread that was born bound is.
    world.tasks.insert(8, (80, mask("0")));
    world.tasks.insert(20, (150, mask("2-3")));
    let (outcome, world) = bind(world, "1");
    assert_eq!(told(&outcome), said(2, 4, "partly done: 2 tasks left alone: bound by somebody else"));
    assert_eq!((&world.tasks[&8].1, &world.tasks[&20].1), (&mask("0"), &mask("1")));
    assert_eq!(world.kept[&PROC].tasks[&TaskKey { tid: 20, start: 150 }], mask("0-3"));
    // More than before, but for what is somebody's own will.
    let (outcome, world) = bind(world, "0-1");
    assert_eq!(told(&outcome), said(3, 4, "partly done: 1 task left alone: bound by somebody else"));
    assert_eq!((&world.tasks[&7].1, &world.tasks[&8].1), (&mask("0-1"), &mask("0")));
}

#[test]
fn some_threads_are_bound_and_the_others_left_as_they_are() {
    // Number 10 was bound by somebody, 12 is none of it.
    let (outcome, world) = bind_some(World::threads(&["0-3", "0-3", "0-3", "1", "0-3"]), "0-1", &[8, 10, 12]);
    assert_eq!(told(&outcome), said(2, 2, "done"), "1 is within what is wanted");
    assert_eq!(world.binds, [(8, "0-1".into())]);
    let (outcome, world) = bind_some(World { keeps: Vec::new(), binds: Vec::new(), ..world }, "2-3", &[9, 10]);
    assert_eq!(told(&outcome), said(1, 2, "partly done: 1 task left alone: bound by somebody else"));
    assert_eq!(world.binds, [(9, "2-3".into())]);
    let mut world = World { binds: Vec::new(), ..world };
    world.tasks.insert(20, (150, mask("2-3")));
    let (outcome, world) = bind_some(world, "2-3", &[8, 20]);
    assert_eq!((told(&outcome), &world.binds[..]), (said(2, 2, "done"), &[(8, "2-3".into())][..]));
    // All of them, some time later; and who ended is not looked for.
    let (_, world) = bind(World { binds: Vec::new(), ..world }, "0-3");
    assert_eq!(world.binds, [(8, "0-3".into()), (9, "0-3".into()), (20, "0-3".into())]);
    assert_eq!(told(&bind_some(world, "0", &[77]).0), said(0, 0, "done"));
}

#[test]
fn a_child_that_was_born_bound_had_what_its_parent_had() {
    let parent = ProcKey { pid: 5, start: 50 };
    let former = Former { since: 60, online: mask("0-3"), usual: mask("0-3"), gave: [mask("0-1")].into(), tasks: BTreeMap::new() };
    let mut world = World::threads(&["0-1", "0-1"]);
    (world.parent, world.kept) = (Some(parent), [(parent, former)].into());
    let (outcome, world) = bind(world, "2-3");
    assert_eq!(told(&outcome), said(2, 2, "done"));
    let kept = &world.kept[&PROC];
    assert_eq!((kept.since, kept.tasks.values().collect::<BTreeSet<_>>()), (60, [&mask("0-3")].into()));
}
