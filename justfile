# Recipes need the development set-up: python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'

python := ".venv/bin/python"

# what runs before a merge
default: check test

# lint, format and types
check:
    {{python}} -m ruff check jetflow tests bench examples
    {{python}} -m pyright --pythonpath {{python}}

# every test, or those given
test *args:
    {{python}} -m pytest {{args}}

# what needs no server
unit:
    {{python}} -m pytest tests/unit tests/replay

# the whole engine in virtual time, from seeds: --seed N, --seeds A..B, or --minutes M
simulate *args:
    {{python}} -m tests.simulation {{args}}

# plants bugs one at a time, until the simulation finds each
planted *args:
    {{python}} -m tests.simulation planted {{args}}

# figures of this machine
bench *args:
    {{python}} -m bench {{args}}

# jetflow beside other engines; --install installs them first
peers *args:
    {{python}} -m bench.peers {{args}}

# what this working tree makes slower than main, or than a given revision: before a merge
bench-check *args:
    {{python}} -m bench check {{args}}

# the examples, as a newcomer runs them
examples:
    {{python}} examples/webhooks.py
