"""The mailbox: who asks gets the answer to that question, and nobody waits for what is told."""

import asyncio

from bench.execution.mailbox import Mailbox


def test_a_question_waits_for_its_own_answer():
    async def ask_two():
        mailbox = Mailbox()
        first = asyncio.create_task(mailbox.ask("lane 1", "take"))
        second = asyncio.create_task(mailbox.ask("lane 2", "fail", "t", {"a": 1}))
        heard = await mailbox.heard(1.0)
        assert [call[1:] for call in heard] == [
            ("lane 1", "take", ()),
            ("lane 2", "fail", ("t", {"a": 1})),
        ]
        await mailbox.answer(heard[1][0], "second")
        await mailbox.answer(heard[0][0], "first")
        return await first, await second

    assert asyncio.run(ask_two()) == ("first", "second")


def test_what_is_told_waits_for_nothing_and_silence_is_heard_as_such():
    async def tell():
        mailbox = Mailbox()
        await mailbox.tell("lane 1", "renew", 3, 0.5)
        return await mailbox.heard(0.01), await mailbox.heard(0.01)

    assert asyncio.run(tell()) == ([(None, "lane 1", "renew", (3, 0.5))], [])


def test_what_is_told_is_heard_with_the_next_question():
    async def tell():
        mailbox = Mailbox()
        hearing = asyncio.create_task(mailbox.heard(60.0))
        await mailbox.tell("lane 1", "renew", 3, 0.5)
        await asyncio.sleep(0)
        assert not hearing.done()
        asking = asyncio.create_task(mailbox.ask("lane 2", "take"))
        heard = await hearing
        await mailbox.answer(heard[-1].number, "t")
        return [call.name for call in heard], await asking

    assert asyncio.run(tell()) == (["renew", "take"], "t")


def test_a_lane_hears_with_what_it_tells_how_often_it_was_warned():
    async def tell():
        mailbox = Mailbox()
        calm = await mailbox.tell("lane 1", "alive")
        await mailbox.warn({"lane 1"})
        first = [await mailbox.tell(f"lane {n}", "alive") for n in (2, 1)]
        await mailbox.warn({"lane 1"})
        return calm, first, await mailbox.tell("lane 1", "alive")

    assert asyncio.run(tell()) == (0, [0, 1], 2)


def test_an_answer_to_a_lane_that_is_gone_is_let_go():
    async def cancelled():
        mailbox = Mailbox()
        task = asyncio.create_task(mailbox.ask("lane 1", "take"))
        ((number, *_),) = await mailbox.heard(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await mailbox.answer(number, "late")

    asyncio.run(cancelled())
