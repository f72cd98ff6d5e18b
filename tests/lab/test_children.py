"""What is said of a child that ended."""

from pathlib import Path

import trio

from warren.lab.children import Child


async def test_who_ended_without_a_word_may_have_had_no_room_for_one(tmp_path: Path) -> None:
    log = tmp_path / "lab" / "log" / "relay1.log"
    log.parent.mkdir(parents=True)
    log.touch()
    process = await trio.lowlevel.open_process(["false"])
    await process.wait()
    child = Child("relay", "relay1", log, (), process)

    silent = child.obituary()
    log.write_text("it broke")
    told = child.obituary()

    assert f"and nothing in its log: is there room in {tmp_path}" in silent
    assert told.endswith("ended with code 1\n    it broke")
