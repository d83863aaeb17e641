"""``hello.py`` does what its docstring says."""

from jetflow import Client, Worker
from tests.examples.conftest import documented


async def test_greets_after_a_retry_and_hears_the_answer(client: Client, queue: str, example) -> None:
    module = example("hello")
    async with Worker(client, task_queue=queue, workflows=[module.hello], activities=[module.greet]):
        handle = await client.start(module.hello, "Ada", workflow_id="hello", task_queue=queue)
        await handle.signal("answer", "fine, and you?")
        assert await handle.result(timeout="30s") == "Hello, Ada! You said: fine, and you?"


async def test_goes_on_when_nobody_answers_in_time(client: Client, queue: str, example) -> None:
    module = example("hello")
    async with Worker(client, task_queue=queue, workflows=[module.hello], activities=[module.greet]):
        assert await client.execute(module.hello, "Ada", "50ms", task_queue=queue, timeout="30s") == "Hello, Ada! No answer."


async def test_commands_of_the_docstring_work(client: Client, example, nats) -> None:
    module = example("hello")
    async with Worker(client, task_queue="hello", workflows=[module.hello], activities=[module.greet]):
        nats(documented(module, "signal.answer"), client.url)  # before the start is fine too
        nats(documented(module, "start.hello"), client.url)
        assert await client.get_handle("hello-1", task_queue="hello").result(timeout="30s") == "Hello, Ada! You said: fine, and you?"
        assert "You said: fine, and you?" in nats(documented(module, "kv get jetflow_state"), client.url)
