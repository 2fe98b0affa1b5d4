"""Messages go to standard error, and only the main process prints."""

from finegrain.core import log


def test_messages_and_bars_go_to_stderr(capsys):
    log.info("12 images rejected")
    assert list(log.progress_bar([1, 2], total=2, label="pack")) == [1, 2]
    captured = capsys.readouterr()
    assert captured.err == "12 images rejected\n" and captured.out == ""  # a log file gets no bar so soon


def test_other_processes_print_nothing(capsys, monkeypatch):
    monkeypatch.setattr(log, "IS_MAIN_PROCESS", False)
    log.info("12 images rejected")
    assert capsys.readouterr().err == ""
    assert log.progress_bar([], total=0, label="pack").disable


def test_a_log_file_gets_whole_lines(capsys, monkeypatch):
    monkeypatch.setattr(log, "LOG_SECONDS", 0.0)
    list(log.progress_bar(range(2000), total=2000, label="pack", unit="img"))
    lines = capsys.readouterr().err
    assert "\r" not in lines and lines.endswith("\n")
    assert lines.splitlines()[0].startswith("pack: 0 %, 00:00 passed")


def test_a_percentage_is_printed_without_the_space_of_a_page(capsys):
    log.info("top-1 14.58\N{NO-BREAK SPACE}%")
    assert capsys.readouterr().err == "top-1 14.58%\n"
