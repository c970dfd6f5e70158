"""LangChain's own suites for chat models, held against the demo model.

What the demo model does not do is declared by the properties the suites have for it, so the
suites leave those tests out themselves.
"""

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from memorystore_tutorial.demo_model import DemoChatModel


class TestDemoChatModelUnit(ChatModelUnitTests):
    """The suite that only builds and binds the model."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DemoChatModel


class TestDemoChatModelIntegration(ChatModelIntegrationTests):
    """The suite that talks to the model."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DemoChatModel

    @property
    def model_override_value(self) -> str:
        return "another-demo"
