"""``python -m memorystore_chat.local``: run a command with an embedded server."""

import sys

from memorystore_chat.local.embedded import main

sys.exit(main())
