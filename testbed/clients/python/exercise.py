"""Works with the service through a client that is made from the description of the API: pages, an idempotency key, a revision, a
refusal, events. Address, authority and token come from the environment."""

import json
import os
import ssl
from http import HTTPStatus
from typing import TypeVar

from mbl_api_client import AuthenticatedClient
from mbl_api_client.api.devices import change_device, list_devices, show_device
from mbl_api_client.api.events import list_events
from mbl_api_client.api.groups import change_group, create_group, list_groups, show_group
from mbl_api_client.models import (
    ChangeDevice,
    ChangeGroup,
    ChangeTags,
    CreateGroup,
    Device,
    DeviceDetail,
    DevicePage,
    EventPage,
    Group,
    GroupDetail,
    GroupPage,
    Problem,
)
from mbl_api_client.types import UNSET, Response

PAGES = 100

Wanted = TypeVar("Wanted")
Answer = TypeVar("Answer")


def given(answer: Response[Answer], kind: type[Wanted]) -> Wanted:
    """What was asked for; a refusal ends the program with its words."""
    assert isinstance(answer.parsed, kind), f"{answer.status_code}: {answer.content!r}"
    return answer.parsed


def refused(answer: Response[Answer], status: HTTPStatus, code: str) -> Problem:
    """The refusal that was expected, with this status and this code."""
    problem = given(answer, Problem)
    assert answer.status_code == status, answer.status_code
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem.code == code, problem
    assert problem.type_ == f"urn:mbl:problem:{code}"
    return problem


def endpoints(api: AuthenticatedClient) -> list[str]:
    """The endpoints of all devices, two a page."""
    found: list[str] = []
    cursor: str | None = None
    for _ in range(PAGES):
        page = given(list_devices.sync_detailed(client=api, limit=2, cursor=cursor or UNSET), DevicePage)
        assert len(page.items) <= 2
        found += [device.endpoint for device in page.items]
        if not page.next_:
            break
        cursor = page.next_
    return found


def groups(api: AuthenticatedClient) -> tuple[list[str], int]:
    """The names of all groups, two a page, and how many pages they were."""
    found: list[str] = []
    cursor: str | None = None
    for pages in range(1, PAGES):
        page = given(list_groups.sync_detailed(client=api, limit=2, cursor=cursor or UNSET), GroupPage)
        found += [group.name for group in page.items]
        if not page.next_:
            return found, pages
        cursor = page.next_
    raise AssertionError("the pages never end")


def made(api: AuthenticatedClient, name: str, key: str) -> Group:
    wanted = CreateGroup(name=name, title=f"Group {name}", members=["gate-1"])
    return given(create_group.sync_detailed(client=api, body=wanted, idempotency_key=key), Group)


def main() -> None:
    api = AuthenticatedClient(
        base_url=os.environ["MBL_API"],
        token=os.environ["MBL_TOKEN"],
        verify_ssl=ssl.create_default_context(cafile=os.environ["MBL_AUTHORITY"]),
    )
    expected: list[str] = json.loads(os.environ["MBL_DEVICES"])
    assert sorted(endpoints(api)) == sorted(expected), "the pages hold every device once"

    names = [f"py-{letter}" for letter in "abcde"]
    for name in names:
        first = made(api, name, f"key-{name}")
        assert made(api, name, f"key-{name}") == first, "the same request with the same key is answered as before"
    listed, pages = groups(api)
    assert [name for name in listed if name.startswith("py-")] == names, listed
    assert pages >= 3, "five groups need three pages of two"
    other = create_group.sync_detailed(client=api, body=CreateGroup(name="py-other"), idempotency_key="key-py-a")
    refused(other, HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused")

    shown = show_group.sync_detailed("py-a", client=api)
    given(shown, GroupDetail)
    etag = shown.headers["etag"]
    change = ChangeGroup(title="Another title", add=["gate-2"])
    changed = given(change_group.sync_detailed("py-a", client=api, body=change, if_match=etag), Group)
    assert (changed.title, changed.members) == ("Another title", 2), changed
    late = change_group.sync_detailed("py-a", client=api, body=ChangeGroup(title="Too late"), if_match=etag)
    refused(late, HTTPStatus.PRECONDITION_FAILED, "stale")

    missing = show_group.sync_detailed("py-nothing", client=api)
    refused(missing, HTTPStatus.NOT_FOUND, "not_found")
    assert missing.headers["ratelimit"].startswith('"account";r='), "every answer tells how often one may still ask"
    unreadable = list_devices.sync_detailed(client=api, filter_="no_such_field = 1")
    problem = refused(unreadable, HTTPStatus.UNPROCESSABLE_ENTITY, "malformed_filter")
    assert problem.at == 0, "the problem says where in the filter"

    endpoint = expected[0]
    device = show_device.sync_detailed(endpoint, client=api)
    given(device, DeviceDetail)
    tagged = ChangeDevice(tags=ChangeTags(add=["from-python"]))
    given(change_device.sync_detailed(endpoint, client=api, body=tagged, if_match=device.headers["etag"]), Device)
    events = given(list_events.sync_detailed(client=api, limit=500), EventPage)
    about = [event.type_ for event in events.items if event.subject == f"devices/{endpoint}"]
    assert "device.changed" in about, about
    print(json.dumps({"devices": len(expected), "groups": listed, "about": about}))


main()
