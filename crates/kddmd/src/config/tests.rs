use super::*;

fn file(text: &str) -> Result<Layer, ConfigError> {
    Layer::from_toml(text, Path::new("/etc/kddm/kddmd.toml"))
}

fn environment(pairs: &[(&str, &str)]) -> Result<Layer, ConfigError> {
    let find = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string());
    Layer::from_environment(find)
}

fn resolve(layer: Layer) -> Result<Settings, ConfigError> {
    Settings::resolve(layer, Some("/default".into()))
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = file("session = 1\nlisten = \"127.0.0.1:1\"\nlog = \"warn\"\n").expect("good");
    let environment = environment(&[("KDDM_SESSION", "2"), ("KDDM_LISTEN", "127.0.0.1:2")]).expect("good");
    let flags = Layer { session: Some(3), ..Layer::default() };
    let settings = resolve(flags.over(environment).over(file)).expect("good");
    assert_eq!(settings.session, 3);
    assert_eq!(settings.listen.to_string(), "127.0.0.1:2");
    assert_eq!(settings.log, "warn");
    assert_eq!(settings.data_dir, Path::new("/default"));
}

#[test]
fn the_defaults_are_those_that_are_promised() {
    let settings = resolve(Layer::default()).expect("good");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:7600");
    assert_eq!((settings.session, settings.insecure, settings.found), (4711, false, false));
    assert_eq!(settings.drain_limit, Duration::from_secs(60));
    assert!(settings.http.is_none() && settings.contacts.is_empty() && settings.node_id.is_none());
}

#[test]
fn every_key_can_be_set_in_the_file_and_in_the_environment() {
    let text = "node_id = 3\nlisten = \"7601\"\ninsecure = true\ncontacts = [\"a:1\", \"b:2\"]\nfound = false\nautostart = false\n\
                session = 12\nzone = \"rack 7\"\nwitness = true\npreferred = false\ndata_dir = \"/d\"\nhttp = \"7680\"\nlog = \"debug\"\nwait_limit_ms = 1\njoin_limit_ms = 2\n\
                drain_limit_ms = 3\nlease_ms = 300\nobject_limit_bytes = 4\noutstanding_limit = 5\npeer_buffer_limit_bytes = 6\nlanes = 7\nguardian = \"/g\"\n";
    let from_file = file(text).expect("good");
    let from_environment = environment(&[
        ("KDDM_NODE_ID", "3"),
        ("KDDM_LISTEN", "7601"),
        ("KDDM_INSECURE", "true"),
        ("KDDM_CONTACT", "a:1, b:2"),
        ("KDDM_FOUND", "false"),
        ("KDDM_AUTOSTART", "false"),
        ("KDDM_SESSION", "12"),
        ("KDDM_ZONE", "rack 7"),
        ("KDDM_WITNESS", "true"),
        ("KDDM_PREFERRED", "false"),
        ("KDDM_DATA_DIR", "/d"),
        ("KDDM_HTTP", "7680"),
        ("KDDM_LOG", "debug"),
        ("KDDM_WAIT_LIMIT_MS", "1"),
        ("KDDM_JOIN_LIMIT_MS", "2"),
        ("KDDM_DRAIN_LIMIT_MS", "3"),
        ("KDDM_LEASE_MS", "300"),
        ("KDDM_OBJECT_LIMIT_BYTES", "4"),
        ("KDDM_OUTSTANDING_LIMIT", "5"),
        ("KDDM_PEER_BUFFER_LIMIT_BYTES", "6"),
        ("KDDM_LANES", "7"),
        ("KDDM_GUARDIAN", "/g"),
    ])
    .expect("good");
    assert_eq!(from_file, from_environment);
    assert!(!format!("{from_file:?}").contains("None"), "a key is missing above: {from_file:?}");
    assert_eq!(from_file.clone().over(Layer::default()), from_file);
    assert_eq!(Layer::default().over(from_file.clone()), from_file);
    let settings = resolve(from_file).expect("good");
    assert_eq!((settings.listen.to_string().as_str(), settings.node_config(None).lanes), ("127.0.0.1:7601", 7));
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_line() {
    for (text, words) in [
        ("session = 12\nlisen = \"x\"\n", &["kddmd.toml line 2", "`lisen`", "`listen`"][..]),
        ("\n\nsession = \"many\"\n", &["line 3", "correct or remove"]),
        ("session = 70000\n", &["line 1"]),
        ("session = 0\n", &["kddmd.toml: `session` is 0", "from 1 to 9999"]),
        ("listen = \"nowhere\"\n", &["`listen`", "no port"]),
        ("contacts = [\"local:x\"]\n", &["`contacts`", "local:x"]),
        ("session = \n", &["line 1"]),
        ("drain_limit_ms = 0\n", &["`drain_limit_ms` is 0"]),
        ("lease_ms = 49\n", &["`lease_ms` is 49", "50 to 60000"]),
        ("lanes = 0\n", &["`lanes` is 0", "from 1 to 16", "same for all nodes"]),
        ("lanes = 17\n", &["`lanes` is 17"]),
        ("object_limit_bytes = 2000000000\n", &["`object_limit_bytes`", "1 GiB"]),
    ] {
        let error = file(text).expect_err(text).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{text:?}: {error}");
        assert!(!error.contains('\n'), "one sentence, not: {error}");
    }
}

#[test]
fn what_is_wrong_elsewhere_is_named_by_its_variable_or_flag() {
    let error = environment(&[("KDDM_SESSION", "many")]).expect_err("bad").to_string();
    assert_eq!(error, "KDDM_SESSION is `many`; it must be a number from 1 to 9999");
    let error = environment(&[("KDDM_CONTACT", "a:1,b")]).expect_err("bad").to_string();
    assert!(error.starts_with("KDDM_CONTACT is `b`"), "{error}");
    let flags = Layer { contacts: Some(vec!["x".into()]), ..Layer::default() };
    let error = flags.check(&Source::Flags).expect_err("bad").to_string();
    assert!(error.starts_with("--contact is `x`"), "{error}");
}

#[test]
fn beyond_loopback_only_if_allowed_and_one_way_to_begin() {
    let everywhere = Layer { listen: Some("0.0.0.0:7600".into()), insecure: Some(true), ..Layer::default() };
    assert!(resolve(everywhere).expect_err("nobody could come back").to_string().contains("own address"));
    let beyond = Layer { listen: Some("192.0.2.1:7600".into()), ..Layer::default() };
    let error = resolve(beyond.clone()).expect_err("refused").to_string();
    assert!(error.contains("--insecure") && error.contains("192.0.2.1:7600"), "{error}");
    assert!(resolve(Layer { insecure: Some(true), ..beyond }).is_ok());
    let both = Layer { found: Some(true), contacts: Some(vec!["a:1".into()]), ..Layer::default() };
    assert!(resolve(both).is_err());
    let both = Layer { witness: Some(true), preferred: Some(true), ..Layer::default() };
    assert!(resolve(both).expect_err("it shares nothing").to_string().contains("give one of them"));
    assert!(Settings::resolve(Layer::default(), None).is_err());
}
