import dns.message
import dns.rcode
import pytest

from warren.run.names import SyntheticNames
from warren.run.questions import Questions


def ask(questions: Questions, name: str, rdtype: str) -> dns.message.Message:
    data = questions.answer(dns.message.make_query(name, rdtype).to_wire(), 512)
    assert data is not None
    return dns.message.from_wire(data)


@pytest.mark.parametrize(("rdtype", "text"), [("A", "198.18.1.0"), ("AAAA", "2001:2::100")])
def test_any_name_has_a_synthetic_address(rdtype: str, text: str) -> None:
    response = ask(Questions(SyntheticNames()), "Www.Example", rdtype)

    assert [record.to_text() for record in response.answer[0]] == [text]


@pytest.mark.parametrize("rdtype", ["MX", "TXT", "HTTPS"])
def test_other_records_are_empty_not_errors(rdtype: str) -> None:
    response = ask(Questions(SyntheticNames()), "www.example", rdtype)

    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize("name", ["printer.local", "router"])
def test_local_names_do_not_exist(name: str) -> None:
    assert ask(Questions(SyntheticNames()), name, "A").rcode() == dns.rcode.NXDOMAIN


def test_it_remembers_no_more_names_than_have_addresses() -> None:
    questions = Questions(SyntheticNames(4))

    for number in range(50):
        ask(questions, f"host{number}.example", "A")

    assert len(questions.asked) <= 1
