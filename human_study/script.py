"""What Streamlit compiles and runs for every click; the pages themselves are imported once."""

from human_study.app import main

main()
