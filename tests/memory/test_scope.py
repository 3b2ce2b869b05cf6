from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from qqmem.errors import InvalidRequest
from qqmem.memory.scope import Scope, View, said_in

IDS = st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True)
SCOPES = st.one_of(
    st.just(Scope("global")),
    st.builds(lambda owner: Scope("user", owner=owner), IDS),
    st.builds(lambda group: Scope("group", group=group), IDS),
    st.builds(lambda owner, group: Scope("member", owner, group), IDS, IDS),
)


@given(SCOPES)
def test_a_scope_is_written_and_read(scope: Scope) -> None:
    assert Scope.parse(str(scope)) == scope


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("global", Scope("global")),
        ("user:10001", Scope("user", owner="10001")),
        ("group:7", Scope("group", group="7")),
        ("member:10001@7", Scope("member", owner="10001", group="7")),
    ],
)
def test_scopes_are_written_so(text: str, scope: Scope) -> None:
    assert Scope.parse(text) == scope
    assert str(scope) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user",
        "user:",
        "user:小明",
        "user:1 ",
        "user:1\n",
        " user:1",
        "User:1",
        "user:1@7",
        "group:1@7",
        "member:1",
        "member:@7",
        "member:1@",
        "member:1@7@8",
        "global:1",
        "global ",
        "private:1",
        "user:" + "1" * 65,
        "user:1' OR 1=1 --",
        "user:%",
        "user:１",
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write user:<qq>"):
        Scope.parse(text)


@pytest.mark.parametrize(
    ("scope", "holder"),
    [("user:1", "user:1"), ("member:1@7", "user:1"), ("group:7", "group:7"), ("global", "global")],
)
def test_a_person_has_a_say_in_what_they_said_wherever_it_was(scope: str, holder: str) -> None:
    assert Scope.parse(scope).holder == holder


def test_what_is_said_belongs_to_who_said_it_there() -> None:
    assert str(said_in("private:1", "1")) == "user:1"
    assert str(said_in("group:7", "1")) == "member:1@7"
    for conversation, speaker in (("group:7", ""), ("group:7", "1@8"), ("7", "1"), ("group:", "1"), ("user:1", "1")):
        with pytest.raises(InvalidRequest):
            said_in(conversation, speaker)


@pytest.mark.parametrize(
    ("view", "sees"),
    [
        (View.of("private:1"), "user:1 member:1@7 member:1@8 global"),
        (View.of("private:1", opened=["2"]), "user:1 member:1@7 member:1@8 global"),
        (View.of("group:7"), "group:7 member:1@7 member:2@7 global"),
        (View.of("group:7", opened=["2", "3"]), "group:7 member:1@7 member:2@7 global user:2"),
        (View.of("group:1"), "global"),
        (View.only(Scope.parse("member:1@7")), "member:1@7"),
        (View.only(Scope.parse("global")), "global"),
        (View.all(), "user:1 user:2 group:7 group:8 member:1@7 member:1@8 member:2@7 member:2@8 global"),
        (View(frozenset()), ""),
        (View(frozenset(), owner="1", group="8"), "member:1@7 member:1@8 member:2@8"),
    ],
)
def test_a_view_shows_this_and_nothing_else(view: View, sees: str) -> None:
    every = "user:1 user:2 group:7 group:8 member:1@7 member:1@8 member:2@7 member:2@8 global".split()
    assert {scope for scope in every if view.sees(Scope.parse(scope))} == set(sees.split())


@pytest.mark.parametrize("conversation", ["", "1", "private:", "channel:1", "group:7\n", "group:7@1"])
def test_there_is_no_view_of_a_conversation_that_cannot_be(conversation: str) -> None:
    with pytest.raises(InvalidRequest, match="private:<qq>"):
        View.of(conversation)
