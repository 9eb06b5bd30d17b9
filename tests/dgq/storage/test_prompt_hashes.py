"""Hashes of prompts."""

import hashlib

from dgq.storage.prompt_hashes import prompt_hash, prompt_hashes


def test_a_hash_is_the_beginning_of_the_sha256_of_the_words() -> None:
    assert (
        prompt_hash(" a dog\n on  a beach ") == hashlib.sha256(b"a dog on a beach").hexdigest()[:16]
    )
    assert prompt_hash("\ud800") != prompt_hash("")


def test_the_order_and_repetitions_of_prompts_do_not_matter() -> None:
    hashes = prompt_hashes(["a dog", "a cat", "a dog"])
    assert hashes == prompt_hashes(["a cat", "a dog"])
    assert set(hashes) == {prompt_hash("a cat"), prompt_hash("a dog")}
