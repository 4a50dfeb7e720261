//! Recordings: what goes in comes out, whatever happens to the bytes is noticed, and old files stay readable.

mod arbitrary;
mod samples;

use arbitrary::any_record;
use memtier::plan::Decision;
use memtier::trace::{self, Clocks, Format, Item, Limits, Opening, Reader, Record, TraceError, Turn, Writer};
use memtier::vocab::*;
use memtier_tests::{root, scratch};
use proptest::collection::vec;
use proptest::prelude::*;
use samples::{SECOND, event, one_of_each};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const HUGE: Limits = Limits { segment: Bytes(1 << 40), keep: Bytes(1 << 50), keep_for: Span(u64::MAX) };

const fn clocks(seconds: u64) -> Clocks {
    Clocks { at: Time(seconds * SECOND), unix_ns: (1_700_000_000 + seconds) * SECOND }
}

fn create(dir: &Path, now: Clocks, limits: Limits) -> Writer {
    Writer::create(dir, "host", "b007", now, limits).unwrap()
}

fn put(writer: &mut Writer, record: &Record) {
    match record {
        Record::Event(event) => writer.event(event).unwrap(),
        Record::Decision(decision) => writer.decision(decision).unwrap(),
        Record::Checkpoint(_) => panic!("checkpoints are the writer's own"),
    }
}

/// Everything up to the end or the first error.
fn read(path: &Path, salvage: bool) -> (Vec<Record>, Vec<trace::Damage>, Option<TraceError>) {
    let mut reader = match Reader::open(path) {
        Ok(reader) => reader.salvage(salvage),
        Err(e) => return (Vec::new(), Vec::new(), Some(e)),
    };
    let mut records = Vec::new();
    let mut error = None;
    for item in &mut reader {
        match item {
            Ok(Item::Record(record)) => records.push(record),
            Ok(Item::Segment { .. }) => {}
            Err(e) => error = Some(e),
        }
    }
    (records, reader.damage().to_vec(), error)
}

fn exit(seq: u64) -> Record {
    event(seq, Event::Kernel(KernelEvent::Exit { proc: ProcKey { pid: seq as u32, start: seq } }))
}

#[test]
fn records_return_as_they_went_in_whatever_the_frames() {
    let records = one_of_each();
    for per_frame in [1, 3, 1000] {
        let dir = scratch();
        let mut writer = create(dir.path(), clocks(0), HUGE);
        for (i, record) in records.iter().enumerate() {
            put(&mut writer, record);
            if i % per_frame == per_frame - 1 {
                writer.flush().unwrap();
            }
        }
        writer.finish().unwrap();
        let (back, damage, error) = read(dir.path(), false);
        assert!(damage.is_empty() && error.is_none(), "{damage:?} {error:?}");
        assert_eq!(back, records);
        assert_eq!(read(&dir.path().join("000001.mtt"), false).0, records, "one file is a recording too");
    }
}

#[test]
fn files_are_for_their_owner_only() {
    let dir = scratch();
    let recording = dir.path().join("a/b");
    let writer = create(&recording, clocks(0), HUGE);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&recording), mode(writer.path())), (0o700, 0o600));
}

/// Names of the segments.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A recording with one event a second and a new segment every ten.
fn segmented(dir: &Path, events: u64) -> Writer {
    let limits = Limits { segment: Bytes(1), ..HUGE };
    let mut writer = create(dir, clocks(0), limits);
    for seq in 1..=events {
        put(&mut writer, &exit(seq));
        writer.flush().unwrap();
        if seq % 10 == 0 {
            put(&mut writer, &Record::Decision(Decision { number: seq / 10, after: seq, ..Decision::default() }));
            assert_eq!(writer.turn(&format!("state after {seq}"), clocks(seq)).unwrap(), Turn::NewSegment);
        }
    }
    writer
}

#[test]
fn segments_follow_each_other_and_open_with_a_checkpoint() {
    let dir = scratch();
    segmented(dir.path(), 25).finish().unwrap();
    assert_eq!(names(dir.path()), ["000001.mtt", "000002.mtt", "000003.mtt"]);
    let mut seen = Vec::new();
    for item in Reader::open(dir.path()).unwrap() {
        seen.push(match item.unwrap() {
            Item::Segment { header, joins } => {
                format!("{:?} {} {} {joins}", header.opening, header.next_event, header.next_decision)
            }
            Item::Record(Record::Checkpoint(_)) => "checkpoint".into(),
            Item::Record(Record::Event(_)) => "event".into(),
            Item::Record(Record::Decision(_)) => "decision".into(),
        });
    }
    let events = |n| std::iter::repeat_n("event".to_owned(), n);
    let expected: Vec<String> = std::iter::once("Start 1 1 false".to_owned())
        .chain(events(10))
        .chain(["decision", "Continues 11 2 true", "checkpoint"].map(String::from))
        .chain(events(10))
        .chain(["decision", "Continues 21 3 true", "checkpoint"].map(String::from))
        .chain(events(5))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_recording_without_its_head_is_read_from_where_it_begins() {
    let dir = scratch();
    segmented(dir.path(), 25).finish().unwrap();
    fs::remove_file(dir.path().join("000001.mtt")).unwrap();
    let items: Vec<_> = Reader::open(dir.path()).unwrap().map(Result::unwrap).collect();
    assert!(matches!(&items[0], Item::Segment { header, joins: false } if header.next_event == 11));
    let Item::Record(Record::Checkpoint(state)) = &items[1] else { panic!("{:?}", items[1]) };
    assert!(state.ends_with(b"state after 10"), "the state as the writer was given it, in CBOR");
}

#[test]
fn recording_may_begin_in_a_stream_that_runs() {
    let dir = scratch();
    let mut writer = Writer::join(dir.path(), "host", "b007", clocks(7), HUGE, &"a state", (41, 5)).unwrap();
    put(&mut writer, &exit(41));
    writer.finish().unwrap();
    let items: Vec<_> = Reader::open(dir.path()).unwrap().map(Result::unwrap).collect();
    let [Item::Segment { header, joins: false }, Item::Record(Record::Checkpoint(_)), Item::Record(event)] = items.as_slice()
    else {
        panic!("{items:?}")
    };
    assert_eq!((header.opening, header.next_event, header.next_decision, event), (Opening::Resumes, 41, 5, &exit(41)));
}

#[test]
fn a_missing_segment_is_a_gap_and_salvage_steps_over_it() {
    let dir = scratch();
    segmented(dir.path(), 35).finish().unwrap();
    let lost = dir.path().join("000002.mtt");
    fs::remove_file(&lost).unwrap();
    let (records, _, error) = read(dir.path(), false);
    assert_eq!(records.len(), 11);
    let third = dir.path().join("000003.mtt");
    assert_eq!(
        error.unwrap().to_string(),
        format!(
            "{} does not follow what comes before it: events 11 to 21 are missing, or decisions between them; was a segment deleted or \
             cut? (--salvage goes on from its checkpoint)",
            third.display()
        )
    );
    let (records, _, error) = read(dir.path(), true);
    assert!(error.is_none() && records.last() == Some(&exit(35)), "{error:?}");
}

#[test]
fn retention_by_size_spares_the_present_segment_and_counts_earlier_runs() {
    let dir = scratch();
    segmented(dir.path(), 25).finish().unwrap();
    let size = fs::metadata(dir.path().join("000002.mtt")).unwrap().len();
    let mut writer = create(dir.path(), clocks(30), Limits { segment: Bytes(1), keep: Bytes(2 * size), ..HUGE });
    assert_eq!(names(dir.path()).last().unwrap(), "000004.mtt", "numbers go on");
    assert!(names(dir.path()).len() < 4);
    writer.event(&Stamped { seq: 1, at: Time(31 * SECOND), event: Event::Sight { source: Source::Psi } }).unwrap();
    assert_eq!(writer.turn(&vec![7u64; 100_000], clocks(31)).unwrap(), Turn::NewSegment);
    assert_eq!(writer.path(), dir.path().join("000005.mtt"));
    writer.finish().unwrap();
    assert!(names(dir.path()).contains(&"000005.mtt".to_owned()), "the present one stays though it alone may be too large");
    // What the new stream holds does not join what the old one left.
    let joins: Vec<_> = Reader::open(dir.path())
        .unwrap()
        .filter_map(|item| match item.unwrap() {
            Item::Segment { header, joins } => Some((header.opening, joins)),
            Item::Record(_) => None,
        })
        .collect();
    assert!(joins.contains(&(Opening::Start, false)) || joins[0] == (Opening::Continues, false), "{joins:?}");
}

#[test]
fn retention_by_age_counts_from_a_segments_end() {
    let dir = scratch();
    let limits = Limits { keep_for: Span::from_secs(80), ..HUGE };
    let mut writer = create(dir.path(), clocks(0), limits);
    let mut turns = Vec::new();
    for seq in 1..=100 {
        put(&mut writer, &exit(seq));
        if writer.turn(&(), clocks(seq)).unwrap() == Turn::NewSegment {
            turns.push(seq);
        }
    }
    assert_eq!(turns, (1..=10).map(|n| n * 10).collect::<Vec<_>>(), "a segment ends after an eighth of the time to keep");
    // At 100 s, the segment that ended at 10 s is older than 80 s; the one that ended at 20 s is just not.
    assert_eq!(names(dir.path())[0], "000002.mtt");
}

#[test]
fn checkpoints_stay_a_fifth_of_the_recording() {
    let dir = scratch();
    let limits = Limits { segment: Bytes(1), ..HUGE };
    let mut writer = create(dir.path(), clocks(0), limits);
    // Incompressible, and larger than one piece.
    let mut x = 1u64;
    let state: Vec<u64> = std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        x
    })
    .take(300_000)
    .collect();
    put(&mut writer, &exit(1));
    assert_eq!(writer.turn(&state, clocks(1)).unwrap(), Turn::NewSegment);
    let checkpoint = writer.bytes();
    assert!(checkpoint > 2_400_000, "{checkpoint}");
    put(&mut writer, &exit(2));
    assert_eq!(writer.turn(&state, clocks(2)).unwrap(), Turn::Same, "one event is no reason for another checkpoint");
    writer.finish().unwrap();
    let (records, ..) = read(&dir.path().join("000002.mtt"), false);
    let whole: Vec<u8> =
        records.iter().flat_map(|r| if let Record::Checkpoint(piece) = r { piece.as_slice() } else { &[] }).copied().collect();
    assert!(records.len() > 3 && whole.len() > 2_400_000, "in pieces");
}

/// A full disk, played by the file size limit of a child process that runs this very test.
#[test]
fn a_full_disk_is_said_once_and_recording_resumes_behind_a_checkpoint() {
    const CHILD: &str = "MEMTIER_TEST_FULL_DISK";
    let Some(dir) = std::env::var_os(CHILD) else {
        let dir = scratch();
        let status = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "a_full_disk_is_said_once_and_recording_resumes_behind_a_checkpoint", "--nocapture"])
            .env(CHILD, dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    let dir = PathBuf::from(dir);
    let mut writer = create(&dir, clocks(0), HUGE);
    let mut x = 1u64;
    let noise = |seq: u64, x: &mut u64| {
        let why = (0..2000).map(|_| {
            *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + (*x >> 58) as u8)
        });
        Stamped { seq, at: Time(seq), event: Event::Blind { source: Source::Psi, why: why.collect() } }
    };
    let mut errors = Vec::new();
    let mut good = writer.bytes();
    for seq in 1..=200 {
        let written = writer.event(&noise(seq, &mut x)).and_then(|()| writer.flush());
        match written {
            Ok(()) if errors.is_empty() => good = writer.bytes(),
            Ok(()) => {}
            Err(e) => errors.push((seq, e.to_string())),
        }
    }
    let [(failed, message)] = errors.as_slice() else { panic!("{errors:?}") };
    let first = dir.join("000001.mtt");
    assert_eq!(*message, format!("cannot write {}: File too large (os error 27)", first.display()));
    assert_eq!(writer.lost(), Some(200 - failed + 1));
    assert_eq!(fs::metadata(&first).unwrap().len(), good, "no half frame stays behind");
    // Too early, then late enough.
    assert_eq!(writer.turn(&"state", clocks(1)).unwrap(), Turn::Same);
    assert_eq!(writer.turn(&"state", clocks(30)).unwrap(), Turn::Same);
    assert_eq!(writer.turn(&"state", clocks(61)).unwrap(), Turn::Resumed { lost: 200 - failed + 1 });
    assert_eq!(writer.lost(), None);
    writer.event(&noise(201, &mut x)).unwrap();
    writer.finish().unwrap();
    let items: Vec<_> = Reader::open(&dir).unwrap().map(Result::unwrap).collect();
    let events = items.iter().filter(|i| matches!(i, Item::Record(Record::Event(_)))).count() as u64;
    assert_eq!(events, failed - 1 + 1);
    assert!(items.iter().any(
        |i| matches!(i, Item::Segment { header, joins: false } if header.opening == Opening::Resumes && header.next_event == 201)
    ));
}

/// A small recording as one file's bytes.
fn small() -> (Vec<u8>, Vec<Record>) {
    static SMALL: LazyLock<(Vec<u8>, Vec<Record>)> = LazyLock::new(|| {
        let dir = scratch();
        let records: Vec<_> = one_of_each().into_iter().skip(22).collect();
        let mut writer = create(dir.path(), clocks(0), HUGE);
        for pair in records.chunks(2) {
            pair.iter().for_each(|record| put(&mut writer, record));
            writer.flush().unwrap();
        }
        (fs::read(writer.path()).unwrap(), records)
    });
    SMALL.clone()
}

fn with_bytes(bytes: &[u8], salvage: bool) -> (Vec<Record>, Vec<trace::Damage>, Option<TraceError>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    read(file.path(), salvage)
}

#[test]
fn every_truncation_leaves_a_prefix_and_says_how_much_is_gone() {
    let (bytes, records) = small();
    let mut whole_frames = 0;
    for cut in 0..bytes.len() {
        let (back, damage, error) = with_bytes(&bytes[..cut], false);
        assert!(records.starts_with(&back), "cut at {cut}");
        match (error, damage.as_slice()) {
            (Some(TraceError::Headless { .. }), []) => assert!(back.is_empty()),
            (None, [one]) => {
                assert_eq!(one.offset + one.bytes, cut as u64);
                assert_eq!(one.why, "cut inside a frame that was being written");
            }
            (None, []) => whole_frames += 1,
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
    assert_eq!(whole_frames, records.len().div_ceil(2), "between two frames nothing is missing");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (bytes, records) = small();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (back, damage, error) = with_bytes(&flipped, false);
        assert!(records.starts_with(&back), "bit {bit}");
        assert!(error.is_some() && damage.is_empty(), "bit {bit}: {damage:?}");
        if bit % 8 != bit / 8 % 8 {
            continue;
        }
        let (back, damage, error) = with_bytes(&flipped, true);
        assert!(records.starts_with(&back) && (error.is_some() || damage.len() == 1), "bit {bit}: {error:?}");
    }
}

#[test]
fn zeros_that_a_crash_left_behind_are_a_torn_tail() {
    let (mut bytes, records) = small();
    let end = bytes.len() as u64;
    bytes.resize(bytes.len() + 5000, 0);
    let (back, damage, error) = with_bytes(&bytes, false);
    assert!(error.is_none() && back == records);
    assert_eq!((damage[0].offset, damage[0].bytes), (end, 5000));
    *bytes.last_mut().unwrap() = 1;
    assert!(matches!(with_bytes(&bytes, false).2, Some(TraceError::Damaged { .. })));
}

#[test]
fn damage_in_the_middle_names_file_place_and_last_good_event() {
    let dir = scratch();
    segmented(dir.path(), 25).finish().unwrap();
    let second = dir.path().join("000002.mtt");
    let mut bytes = fs::read(&second).unwrap();
    let end = bytes.len();
    bytes[end - 1] ^= 1;
    fs::write(&second, bytes).unwrap();
    let (records, _, error) = read(dir.path(), false);
    assert_eq!(records.len(), 22);
    let Some(TraceError::Damaged { offset, .. }) = error else { panic!("{error:?}") };
    assert_eq!(
        error.unwrap().to_string(),
        format!(
            "{} is damaged at byte {offset}: the checksum of a frame differs; good up to event 20 and decision 1 (--salvage goes on with \
             what is good)",
            second.display()
        )
    );
    let (records, damage, error) = read(dir.path(), true);
    assert!(error.is_none() && damage.len() == 1);
    assert_eq!(records.last(), Some(&exit(25)), "the next segment's checkpoint carries on");
    assert_eq!(damage[0].offset + damage[0].bytes, end as u64);
}

#[test]
fn other_files_and_newer_formats_are_refused_in_words() {
    let dir = scratch();
    let path = dir.path().join("000001.mtt");
    let message = |path: &Path| read(path, false).2.unwrap().to_string();
    let shown = path.display();
    assert_eq!(message(dir.path()), format!("{} holds no recording: no files named NNNNNN.mtt", dir.path().display()));
    assert_eq!(message(&path), format!("cannot read {shown}: No such file or directory (os error 2)"));
    fs::write(&path, "hello, world, this is no recording").unwrap();
    assert_eq!(message(&path), format!("{shown} is not a memtier recording"));
    fs::write(&path, "").unwrap();
    assert_eq!(message(&path), format!("{shown} is cut inside its header: nothing in it can be read"));
    // A later major version: the layout of the header up to its CRC never changes.
    let mut bytes = small().0;
    bytes[8..10].copy_from_slice(&(trace::MAJOR + 1).to_le_bytes());
    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let crc = crc32(&[&bytes[8..16], &bytes[20..20 + len]].concat());
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let by = concat!("memtier ", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        message(&path),
        format!("{shown} has trace format 2, this memtier reads up to 1: use a memtier as new as the one that recorded it ({by})")
    );
}

/// CRC-32 (IEEE), spelled out once more: the format document must be enough to write a reader.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Old recordings stay readable: this one is never rewritten (delete it by hand while the format is not released).
#[test]
fn the_golden_recording_is_read_and_exported() {
    let golden = root().join("tests/fixtures/traces/v1");
    if std::env::var_os("MEMTIER_BLESS").is_some() && !golden.exists() {
        let mut writer = create(&golden, clocks(0), Limits { segment: Bytes(1), ..HUGE });
        for record in one_of_each() {
            put(&mut writer, &record);
            if matches!(record, Record::Decision(_)) {
                writer.turn(&"no planner's state", clocks(21)).unwrap();
            }
        }
        writer.finish().unwrap();
    }
    let (records, damage, error) = read(&golden, false);
    assert!(damage.is_empty() && error.is_none(), "{damage:?} {error:?}");
    let records: Vec<_> = records.into_iter().filter(|r| !matches!(r, Record::Checkpoint(_))).collect();
    assert_eq!(records, one_of_each());
    for (format, pages, name) in [(Format::Jsonl, true, "v1.jsonl"), (Format::Csv, false, "v1.csv")] {
        let mut out = Vec::new();
        trace::export(&mut Reader::open(&golden).unwrap(), format, pages, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let path = root().join("tests/fixtures/traces").join(name);
        if std::env::var_os("MEMTIER_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap() == text,
            "{} differs: see docs/export-schema.md, then `cargo xtask bless`",
            path.display()
        );
    }
}

/// Kinds of events that are younger than the golden recording.
#[test]
fn what_minor_versions_added_is_exported() {
    let dir = scratch();
    let mut writer = create(dir.path(), clocks(0), HUGE);
    let proc = ProcKey { pid: 4711, start: 99 };
    let range = AddrRange { start: 0x1000, end: 0x3000 };
    put(&mut writer, &event(1, Event::Kernel(KernelEvent::Region { proc, range, accesses: 3, samples: 20 })));
    let fault = |tid| Event::Kernel(KernelEvent::Fault { proc, tid, addr: 4096, kind: FaultKind::Minor, period: 9 });
    put(&mut writer, &event(2, fault(4712)));
    put(&mut writer, &event(3, fault(0)));
    writer.finish().unwrap();
    let mut out = Vec::new();
    trace::export(&mut Reader::open(dir.path()).unwrap(), Format::Jsonl, false, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [.., row, told, untold] = &rows[..] else { panic!("{text}") };
    assert_eq!((&row["kind"], &row["pid"], &row["start"]), (&"kernel.region".into(), &4711.into(), &99.into()));
    let data = serde_json::json!({"proc": proc, "range": range, "accesses": 3, "samples": 20});
    assert_eq!(row["data"], data);
    // A thread that is not known is left out, as before there were any.
    let mut data = serde_json::json!({"proc": proc, "addr": 4096, "kind": "minor", "period": 9});
    assert_eq!(untold["data"], data);
    data["tid"] = 4712.into();
    assert_eq!((&told["kind"], &told["data"]), (&"kernel.fault".into(), &data));
}

#[test]
fn export_rows_have_documented_columns_only() {
    let schema = fs::read_to_string(root().join("docs/export-schema.md")).unwrap();
    for (name, meaning) in trace::COLUMNS {
        let meaning = meaning.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        assert!(schema.contains(&format!("| `{name}` | {meaning} |")), "docs/export-schema.md lacks: | `{name}` | {meaning} |");
    }
    let text = fs::read_to_string(root().join("tests/fixtures/traces/v1.jsonl")).unwrap();
    for line in text.lines() {
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        assert!(row.keys().all(|key| trace::COLUMNS.iter().any(|(name, _)| name == key)), "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_return(records in vec(any_record(), 0..40), flush in 1..9usize) {
        let dir = scratch();
        let mut writer = create(dir.path(), clocks(0), HUGE);
        for (i, record) in records.iter().enumerate() {
            put(&mut writer, record);
            if i % flush == 0 {
                writer.flush().unwrap();
            }
        }
        // Not `finish`: 64 waits for the disk would say no more.
        writer.flush().unwrap();
        let (back, damage, error) = read(dir.path(), false);
        prop_assert!(damage.is_empty() && error.is_none());
        prop_assert_eq!(back, records);
        let mut sink = std::io::sink();
        trace::export(&mut Reader::open(dir.path()).unwrap(), Format::Csv, true, &mut sink).unwrap();
    }

    #[test]
    fn any_bytes_give_records_or_a_message(bytes in vec(any::<u8>(), 0..400), header in any::<bool>(), salvage in any::<bool>()) {
        let mut file = if header { small().0[..20 + 150].to_vec() } else { Vec::new() };
        file.extend(bytes);
        with_bytes(&file, salvage);
    }

    #[test]
    fn mangled_recordings_never_panic_nor_invent(
        at in any::<prop::sample::Index>(), with in vec(any::<u8>(), 1..40), salvage in any::<bool>(),
    ) {
        let (mut bytes, records) = small();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + with.len());
        bytes.splice(at..end, with);
        let (back, ..) = with_bytes(&bytes, salvage);
        prop_assert!(records.starts_with(&back));
    }
}
