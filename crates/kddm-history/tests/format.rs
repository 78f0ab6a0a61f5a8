//! What is written is read again, and what is wrong is refused with its line and a reason.

use kddm_history::{Kind, MOST_LINE_BYTES, Operation, Outcome, Seen, Word, read, write};

const HEADER: &str = "{\"format\":\"kddm-history\",\"version\":1}\n";

fn example(kind: Kind, seen: Seen, value: Option<Word>, outcome: Outcome, return_ns: Option<u64>) -> Operation {
    Operation { client: 3, object: Word::Text("a".into()), invoke_ns: 5, return_ns, kind, value, seen, outcome }
}

#[test]
fn what_is_written_is_read_again() {
    let seven = || Some(Word::Number(7));
    let operations = [
        example(Kind::Read, Seen::Absent, None, Outcome::Ok, Some(5)),
        example(Kind::Read, Seen::Value(Word::Number(u64::MAX)), None, Outcome::Ok, Some(u64::MAX)),
        example(Kind::Write, Seen::Nothing, seven(), Outcome::Unknown, None),
        example(Kind::Update, Seen::Value(Word::Text("x\n\"y".into())), seven(), Outcome::Ok, Some(9)),
        example(Kind::Insert, Seen::Nothing, None, Outcome::Failed, Some(9)),
        example(Kind::Remove, Seen::Nothing, None, Outcome::Ok, Some(9)),
    ];
    let mut text = Vec::new();
    write(&operations, &mut text).unwrap();
    assert_eq!(read(text.as_slice()).unwrap(), operations);
    assert_eq!(read(HEADER.as_bytes()).unwrap(), []);
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = read(text.as_bytes()).expect_err("this was read").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_wrong_is_refused_with_its_line() {
    refused("", "line 1: the header is missing");
    refused("{\"client\":1}\n", "line 1: the header is missing");
    refused("{\"format\":\"kddm-history\",\"version\":2}\n", "line 1: this program reads version 1");
    refused("nonsense\n", "line 1: is not JSON");
    refused(&format!("{HEADER}\n[]\n"), "line 3: is not a JSON object");
    let long = format!("{HEADER}{}\n", " ".repeat(MOST_LINE_BYTES));
    refused(&long, "line 2: longer than");
}

#[test]
fn what_is_wrong_with_an_operation_is_said() {
    let line = |fields: &str| format!("{HEADER}{{\"client\":1,\"object\":2,\"invoke_ns\":10,{fields}}}\n");
    let read_ok = |rest: &str| line(&format!("\"operation\":\"read\",\"outcome\":\"ok\"{rest}"));
    refused(&read_ok(",\"return_ns\":11"), "line 2: `result` is missing");
    refused(&read_ok(",\"result\":1"), "`return_ns` is missing");
    refused(&read_ok(",\"result\":1,\"return_ns\":9"), "`return_ns` is before `invoke_ns`");
    refused(&read_ok(",\"result\":1.5,\"return_ns\":19"), "`result` is 1.5");
    refused(&read_ok(",\"result\":1,\"value\":1,\"return_ns\":19"), "`value` belongs to");
    refused(&read_ok(",\"result\":1,\"return_ns\":19,\"vaule\":1"), "no field `vaule`");
    refused(&line("\"operation\":\"write\",\"outcome\":\"ok\",\"return_ns\":11"), "`value` is missing");
    refused(&line("\"operation\":\"write\",\"outcome\":\"unknown\""), "`value` is missing");
    refused(&line("\"operation\":\"look\",\"outcome\":\"ok\""), "not one of read, write, update, insert, remove");
    refused(&line("\"operation\":\"read\""), "`outcome` is missing: one of ok, failed, unknown");
    refused(&format!("{HEADER}{{\"client\":-1}}\n"), "`client` is -1");
}
