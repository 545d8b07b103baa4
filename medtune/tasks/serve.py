"""``task=serve``: answers over HTTP until Ctrl-C or SIGTERM."""

import logging

from medtune.config.schema import Config
from medtune.generation.responder import build_responder
from medtune.runtime.record import RunFolder, write_json
from medtune.tasks.generate import warn_of_untrained
from medtune.tasks.weights import settle_weights

log = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder) -> None:
    """Serves the configured model, or that of ``weights``."""
    from medtune.serving.service import Service  # here: the HTTP libraries are an extra

    service = Service(config)
    warn_of_untrained(config)
    if not config.serve.api_key_env and config.serve.allow_public:
        log.warning(
            "warning: whoever reaches %s may use this server; set serve.api_key_env", config.serve.host
        )
    result = {"url": service.url, "model": service.model}
    service.start()
    try:
        with service.stopping_on_signals():
            with settle_weights(config) as weights:
                batcher = service.load(build_responder(config, weights))
            write_json(folder.result_file, {"status": "serving", **result})
            log.info("%s", greeting(service.url, service.model, needs_key=bool(config.serve.api_key_env)))
            service.answer(batcher)
    finally:
        service.close()
    write_json(folder.result_file, {"status": "finished", **result})


def greeting(url: str, model: str, *, needs_key: bool) -> str:
    """Where the model answers, and a first request to type."""
    key = "  -H 'Authorization: Bearer KEY' \\\n" if needs_key else ""
    return (
        f"serving {model} at {url}/v1 (OpenAI's API); Ctrl-C ends\n"
        f"  curl {url}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n{key}"
        f'  -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "你好"}}]}}\''
    )
