//! Merging against the plain form of the algorithm.

use proptest::prelude::*;

use super::*;

/// A vocabulary of the 256 bytes, whose ids are the bytes, and of what the merges make.
struct Model {
    tokens: Vec<Vec<u8>>,
    merges: Vec<Merge>,
}

impl Model {
    /// Merges of the tokens that the picks name, as far as there are any yet; `shuffle` puts them out of order.
    fn new(bytes: &[u8], picks: &[(u16, u16)], shuffle: bool) -> Self {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut usable: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
        let mut merges = Vec::new();
        for &(left, right) in picks {
            let (left, right) = (usable[usize::from(left) % usable.len()], usable[usize::from(right) % usable.len()]);
            let joined = [&tokens[left as usize][..], &tokens[right as usize][..]].concat();
            let known = tokens.iter().position(|token| *token == joined);
            let result = known.unwrap_or_else(|| {
                tokens.push(joined);
                usable.push(tokens.len() as u32 - 1);
                tokens.len() - 1
            });
            merges.push(Merge { left, right, result: result as u32 });
        }
        if shuffle {
            merges.reverse();
        }
        Self { tokens, merges }
    }

    fn build(&self) -> Merges {
        let list: Vec<Option<Merge>> = self.merges.iter().copied().map(Some).collect();
        let byte_ids = std::array::from_fn(|byte| byte as u32);
        Merges::new(byte_ids, &list, |id| self.tokens.get(id as usize).map(Vec::as_slice), HashKey::random())
    }

    /// Joins the leftmost pair of the lowest rank until there is none. Of two merges of a pair the later counts.
    fn naive(&self, word: &[u8]) -> Vec<u32> {
        let mut symbols: Vec<u32> = word.iter().map(|&byte| u32::from(byte)).collect();
        loop {
            let rank =
                |pair: &[u32]| self.merges.iter().rposition(|merge| [merge.left, merge.right] == [pair[0], pair[1]]);
            let ranks = symbols.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at)));
            let Some((rank, at)) = ranks.min() else { return symbols };
            symbols[at] = self.merges[rank].result;
            symbols.remove(at + 1);
        }
    }

    fn check(&self, words: &[Vec<u8>]) {
        let merges = self.build();
        let mut room = MergeRoom::default();
        let mut together = Vec::new();
        let (mut tokens, mut ends) = (Vec::new(), vec![0]);
        room.encode(&merges, words.iter().map(Vec::as_slice), &mut tokens, |end| ends.push(end));
        together.extend(ends.windows(2).map(|ends| tokens[ends[0]..ends[1]].to_vec()));
        assert_eq!(together.len(), words.len());
        for (word, together) in words.iter().zip(together) {
            let expected = self.naive(word);
            assert_eq!(together, expected, "{word:?}");
            let mut alone = vec![7];
            merges.encode(word, &mut room, &mut alone);
            assert_eq!(alone[1..], expected, "{word:?}");
        }
    }
}

const LETTERS: &[u8] = b"abc";
/// The bytes of a few characters, whose parts merge within and across characters.
const WIDE: &[u8] = "aあいд中".as_bytes();

fn words(text: &'static str) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let word = prop_oneof![8 => 1..20_usize, 2 => 60..70_usize, 1 => 100..300_usize]
        .prop_flat_map(move |len| prop::collection::vec(prop::sample::select(text.chars().collect::<Vec<_>>()), len))
        .prop_map(|chars| chars.into_iter().collect::<String>().into_bytes());
    prop::collection::vec(word, 1..20)
}

fn picks() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec((any::<u16>(), any::<u16>()), 1..60)
}

proptest! {
    #[test]
    fn letters_merge_as_in_the_plain_form(picks in picks(), shuffle: bool, words in words("abc")) {
        Model::new(LETTERS, &picks, shuffle).check(&words);
    }

    #[test]
    fn characters_merge_as_in_the_plain_form(picks in picks(), shuffle: bool, words in words("aあいд中")) {
        Model::new(WIDE, &picks, shuffle).check(&words);
    }

    #[test]
    fn bytes_that_are_no_text_merge_as_in_the_plain_form(
        picks in picks(),
        words in prop::collection::vec(prop::collection::vec(prop::sample::select(WIDE), 1..90), 1..9),
    ) {
        Model::new(WIDE, &picks, false).check(&words);
    }
}

/// Merges that make the characters first, as a trained vocabulary has them.
fn trained() -> Model {
    let mut model = Model::new(WIDE, &[], false);
    let mut join = |left: &[u8], right: &[u8]| {
        let id = |model: &Model, token: &[u8]| model.tokens.iter().position(|known| known == token).unwrap() as u32;
        let (left_id, right_id) = (id(&model, left), id(&model, right));
        if model.merges.iter().any(|merge| [merge.left, merge.right] == [left_id, right_id]) {
            return;
        }
        model.tokens.push([left, right].concat());
        model.merges.push(Merge { left: left_id, right: right_id, result: model.tokens.len() as u32 - 1 });
    };
    for c in ["あ", "い", "中"].map(str::as_bytes) {
        join(&c[..1], &c[1..2]);
        join(&c[..2], &c[2..]);
    }
    let (head, tail) = "д".as_bytes().split_at(1);
    join(head, tail);
    join("あ".as_bytes(), "い".as_bytes());
    // A token that ends within a character, of a lower rank than none of the above.
    join(b"a", &"あ".as_bytes()[..1]);
    model
}

/// How many symbols the word starts from.
fn num_seeds(merges: &Merges, word: &[u8]) -> usize {
    merges.seeds(word).flat_map(Seed::into_symbols).count()
}

#[test]
fn a_word_starts_from_its_characters_where_that_is_certain() {
    let model = trained();
    let merges = model.build();
    let seeds = |word: &str| num_seeds(&merges, word.as_bytes());
    assert_eq!(seeds("あい中д"), 4);
    assert_eq!(seeds("aあ"), 2, "the merge across comes later than those within");
    model.check(&["あい中дaあいaあ", "中aあ", "あ"].map(|word| word.as_bytes().to_vec()));

    // The same merge across, but first of all: then the character's first byte may be taken away.
    let mut across = trained();
    let last = across.merges.pop().unwrap();
    across.merges.insert(0, last);
    let merges = across.build();
    assert_eq!(num_seeds(&merges, "aあ".as_bytes()), 4);
    assert_eq!(num_seeds(&merges, "いあ".as_bytes()), 2);
    across.check(&["あい中дaあいaあ", "中aあ", "あ"].map(|word| word.as_bytes().to_vec()));
}

#[test]
fn a_character_without_a_token_starts_from_its_first_two_bytes() {
    const BYTES: [u32; 3] = [0xe4, 0xb8, 0xad];
    let [first, second, third] = BYTES;
    let (a, part) = (u32::from(b'a'), 256);
    let words = ["中", "a中a", "中中", "a中中a"].map(|word| word.as_bytes().to_vec());
    // The merge of the first two bytes, and others before or after it.
    let num = |before: &[[u32; 3]], after: &[[u32; 3]]| {
        let mut model = Model::new(WIDE, &[], false);
        let lines = [before, &[[first, second, part]], after].concat();
        model.merges = lines.into_iter().map(|[left, right, result]| Merge { left, right, result }).collect();
        for ids in [&[first, second][..], &[a, first], &[second, third], &[third, a], &[a, first, second]] {
            model.tokens.push(ids.iter().map(|&id| id as u8).collect());
        }
        model.check(&words);
        num_seeds(&model.build(), "a中a".as_bytes())
    };
    let (before_first, at_second, at_third, before_part) = (257, 258, 259, 260);
    assert_eq!(num(&[], &[]), 4);
    assert_eq!(num(&[], &[[a, first, before_first], [second, third, at_second]]), 4, "they come later");
    assert_eq!(
        num(&[[third, a, at_third]], &[[a, part, before_part]]),
        4,
        "what the third byte does is its own affair"
    );
    assert_eq!(num(&[[a, first, before_first]], &[]), 5);
    assert_eq!(num(&[[second, third, at_second]], &[]), 5);
    assert_eq!(num(&[[a, part, before_part]], &[]), 5);
}

#[test]
fn long_runs_merge() {
    let model = Model::new(b"a", &[(0, 0), (1, 1), (2, 2), (1, 0)], false);
    for len in [63, 64, 65, 66, 1000, 1001] {
        model.check(&[vec![b'a'; len]]);
    }
    let merges = model.build();
    let (mut room, mut tokens) = (MergeRoom::default(), Vec::new());
    merges.encode(&vec![b'a'; 1_000_000], &mut room, &mut tokens);
    assert_eq!(tokens, vec![258; 125_000]);
}

#[test]
fn no_merges_leave_the_bytes() {
    let model = Model::new(b"a", &[], false);
    model.check(&[b"abc".to_vec(), vec![0xff; 100], vec![]]);
}
